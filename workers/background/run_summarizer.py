"""Summaries of runs and syncs: written again after every change, a bounded number in each round."""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from app.database.engine import Database
from app.errors import TransientError
from app.logs import locate_error
from app.runs.reconcile import reconcile_stored_runs
from app.runs.run_summary import summarize
from app.runs.usual_interval import expect_activity
from app.store.run_totals import count_pending_deliveries
from app.store.runs import Runs, StoredRun
from app.store.syncs import Syncs

_MAX_RUNS = 500
_RUNS_PER_BATCH = 100
# For each kind of runs: a backlog of one kind must not delay the others.
_TIME_LIMIT_S = 0.5
# Runs with pending deliveries change all the time.
_PENDING_INTERVAL = timedelta(seconds=5)
# Reconciling a run of very many pages is slow: summaries may take this fraction of the time.
_INTERVAL_FACTOR = 10
_FAILURE_INTERVAL = timedelta(minutes=10)

log = structlog.get_logger()


class RunSummarizer:
    """Writes the summaries of changed runs, and the rows of their syncs. Raises StoreUnavailable.

    Any number may work at once. stalled_after: the silence after which an open run counts as stalled.
    """

    def __init__(self, database: Database, *, stalled_after: timedelta) -> None:
        self._database = database
        self._runs = Runs(database)
        self._syncs = Syncs(database)
        self._expect = partial(expect_activity, stalled_after=stalled_after)
        self._not_before: dict[str, datetime] = {}

    def summarize_open(self, outdated: Sequence[StoredRun], *, now: datetime) -> None:
        """Write the summaries of unreconciled runs that are outdated, the oldest summary first."""
        never = datetime.min.replace(tzinfo=now.tzinfo)
        self._summarize(sorted(outdated, key=lambda run: run.summarized_at or never), now)

    def summarize_pending(self, *, now: datetime) -> None:
        """Write the summaries of runs that had pending deliveries."""
        before = now - _PENDING_INTERVAL
        self._summarize(self._runs.list_summarized_with_pending(before=before, limit=_MAX_RUNS), now)

    def summarize_changed(self, *, now: datetime) -> None:
        """Write the summaries of runs that changed since, or never had one, newest first."""
        self._summarize(self._runs.list_unsummarized(limit=_MAX_RUNS), now)

    def _summarize(self, runs: Sequence[StoredRun], now: datetime) -> None:
        deadline_s = time.monotonic() + _TIME_LIMIT_S
        self._not_before = {run_id: until for run_id, until in self._not_before.items() if until > now}
        due = [run for run in runs if run.sync_job_run_id not in self._not_before]
        for start in range(0, len(due), _RUNS_PER_BATCH):
            self._summarize_batch(due[start : start + _RUNS_PER_BATCH], now)
            if time.monotonic() >= deadline_s:
                return

    def _summarize_batch(self, runs: Sequence[StoredRun], now: datetime) -> None:
        try:
            self._write_summaries(runs, now)
        except TransientError:
            raise
        except Exception as error:  # noqa: BLE001  # a run that cannot be reconciled must not block others
            if len(runs) > 1:
                for run in runs:
                    self._summarize_batch([run], now)
                return
            [run] = runs
            self._not_before[run.sync_job_run_id] = now + _FAILURE_INTERVAL
            log.error(
                "run.summary_failed",
                run=run.sync_job_run_id,
                error=type(error).__name__,
                location=locate_error(error),
            )

    def _write_summaries(self, runs: Sequence[StoredRun], now: datetime) -> None:
        began_s = time.monotonic()
        run_ids = [run.sync_job_run_id for run in runs]
        pending = count_pending_deliveries(self._database, run_ids)
        summarized = [
            (
                summarize(run, reconciliation, pending_deliveries=pending.get(run.sync_job_run_id, 0)),
                (run.integrated_account_id, run.sync_job_id),
            )
            for run, reconciliation in reconcile_stored_runs(self._database, runs, now=now)
        ]
        self._syncs.save_summaries(summarized, expect=self._expect, now=now)
        until = now + timedelta(seconds=(time.monotonic() - began_s) * _INTERVAL_FACTOR)
        self._not_before |= dict.fromkeys(run_ids, until)
