"""Runs in progress, read repeatedly while a user watches them."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from http import HTTPStatus

from app.clock import utc_now
from app.database.engine import Database
from app.errors import StoreUnavailable, TrutoRefused, TrutoUnavailable
from app.runs.batch_reconcile import ReconciledRun
from app.runs.reconcile import reconcile_stored_runs
from app.runs.refresh import RunRefresher
from app.store.runs import Runs

# Truto updates its counts at this interval.
_REFRESH_INTERVAL_S = 10.0
_MAX_RUNS = 20
_FINAL_VERDICTS = ("complete", "incomplete", "unknown", "refused", "not_sent")
# A run stays among the active ones for this long after its end.
_SHOWN_AFTER_END = timedelta(minutes=1)


class RunWatcher:
    """Reads runs from the store, and refreshes them from Truto in the background.

    run_ids: empty for all active runs, also those that become active later. refresher: None without a token.
    missing_ids: runs that Truto does not know.
    """

    def __init__(self, database: Database, run_ids: Sequence[str], refresher: RunRefresher | None) -> None:
        self._database = database
        self._watches_all = not run_ids
        self._run_ids = tuple(dict.fromkeys(run_ids))
        self._refresher = refresher
        self._refresh_thread = threading.Thread()
        self._refreshed_at_s = 0.0
        self.runs: Sequence[ReconciledRun] = ()
        self.missing_ids: set[str] = set()
        self._final_since: dict[str, datetime] = {}
        self._had_gaps = False

    @property
    def unknown_ids(self) -> list[str]:
        """Ids of watched runs that the store does not know yet."""
        known_ids = {run.sync_job_run_id for run, _ in self.runs}
        return [run_id for run_id in self._run_ids if run_id not in known_ids]

    @property
    def is_finished(self) -> bool:
        """Whether every watched run has ended and has no pending deliveries."""
        return len(self.runs) == len(self._run_ids) and all(
            reconciliation.verdict in _FINAL_VERDICTS for _, reconciliation in self.runs
        )

    @property
    def has_gaps(self) -> bool:
        """Whether records of a run are missing from a sink, or were when the watch dropped the run."""
        return self._had_gaps or any(reconciliation.has_gaps for _, reconciliation in self.runs)

    def load(self) -> None:
        """Read the runs and their reconciliations; raises StoreUnavailable."""
        stored_runs = Runs(self._database)
        if self._watches_all:
            ended_since = utc_now() - _SHOWN_AFTER_END
            active = stored_runs.list_active(ended_since=ended_since, limit=_MAX_RUNS)
            self._drop_runs(ended_since=ended_since)
            # A run that was watched stays to its end, although a worker may reconcile it meanwhile.
            self._run_ids = tuple(dict.fromkeys((*self._run_ids, *(run.sync_job_run_id for run in active))))
        runs = [run for run_id in self._run_ids if (run := stored_runs.get(run_id))]
        self.runs = reconcile_stored_runs(self._database, runs, now=utc_now())
        final_ids = [
            run.sync_job_run_id
            for run, reconciliation in self.runs
            if reconciliation.verdict in _FINAL_VERDICTS
        ]
        self._final_since = {run_id: self._final_since.get(run_id, utc_now()) for run_id in final_ids}

    def _drop_runs(self, *, ended_since: datetime) -> None:
        """Forget the runs whose verdict is final since a time before `ended_since`."""
        dropped = {run_id for run_id, since in self._final_since.items() if since < ended_since}
        self._had_gaps |= any(
            reconciliation.has_gaps for run, reconciliation in self.runs if run.sync_job_run_id in dropped
        )
        self._run_ids = tuple(run_id for run_id in self._run_ids if run_id not in dropped)

    def refresh_in_background(self) -> None:
        """Refresh the runs in a thread, unless a refresh is in progress or recent."""
        if self._refresher is None or self._refresh_thread.is_alive():
            return
        if time.monotonic() - self._refreshed_at_s <= _REFRESH_INTERVAL_S:
            return
        self._refresh_thread = threading.Thread(
            target=self._refresh_runs, args=(self._refresher, self.runs), daemon=True
        )
        self._refresh_thread.start()
        self._refreshed_at_s = time.monotonic()

    def _refresh_runs(self, refresher: RunRefresher, runs: Sequence[ReconciledRun]) -> None:
        ended_ids = {run.sync_job_run_id for run, _ in runs if run.has_ended}
        for run_id in self._run_ids:
            if run_id not in ended_ids:
                # Later events bring the same facts. RuntimeError: the command has ended and closed the
                # connection.
                with suppress(TrutoUnavailable, StoreUnavailable, RuntimeError):
                    self._refresh_run(refresher, run_id)

    def _refresh_run(self, refresher: RunRefresher, run_id: str) -> None:
        try:
            refresher.refresh(run_id, now=utc_now())
        except TrutoRefused as error:
            if error.http_status == HTTPStatus.NOT_FOUND:
                self.missing_ids.add(run_id)
