"""What Truto says of a run beyond its events: how it stands, and what its log adds up to."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from app.runs.reconciliation import ResourceMethod
from app.store.models import RunUpdate
from app.store.runs import Runs, StoredRun
from app.truto.client import TrutoClient
from app.truto.run_log import LogEntry
from app.truto.runs import SyncJobRun, is_final, status_rank

# Clocks differ, and an entry may be written after what it tells of.
_LOG_MARGIN = timedelta(hours=1)
_EPOCH = datetime.min.replace(tzinfo=UTC)


class RunRefresher:
    """Asks Truto about runs and writes down what it says.

    Raises TrutoRefused, TrutoUnavailable and StoreUnavailable.
    """

    def __init__(self, runs: Runs, api: TrutoClient) -> None:
        self._runs = runs
        self._api = api

    def refresh(self, run_id: str, *, now: datetime) -> StoredRun | None:
        """Have a run stand as Truto says it does now. None where nobody knows it."""
        truto_run = self._api.get_run(run_id)
        stored_run = self._runs.get(run_id)
        if status_at := _find_status_time(truto_run, stored_run, now):
            self._runs.upsert(
                _build_run_update(
                    truto_run,
                    status_at,
                    first_seen_at=stored_run.first_seen_at if stored_run else now,
                    now=now,
                )
            )
        return self._runs.get(run_id)

    def refresh_log(self, run: StoredRun, *, now: datetime) -> StoredRun:
        """Add up what Truto's log says of a run's pages."""
        began = run.first_seen_at - _LOG_MARGIN
        until = min(now, run.last_seen_at or now) + _LOG_MARGIN
        entries = self._api.read_log(run.sync_job_run_id, since=began, until=until)
        self._runs.save_log(run.sync_job_run_id, json.dumps(sum_log(entries)))
        return self._runs.get(run.sync_job_run_id) or run


def sum_log(entries: Iterable[LogEntry]) -> dict[str, dict[str, dict[str, int]]]:
    """Sum a log up by resource and method: records fetched, and records given up. Pure."""
    numbers: Counter[tuple[ResourceMethod, bool | None]] = Counter()
    for entry in entries:
        if entry.resource and entry.num_records:
            numbers[(entry.resource, entry.method), entry.is_delivered] += entry.num_records
    totals: dict[str, dict[str, dict[str, int]]] = {}
    for pair in {pair for pair, _ in numbers}:
        delivered, given_up = numbers[pair, True], numbers[pair, False]
        # What says nothing of a delivery may tell of the fetch before it: not to be counted twice.
        fetched = delivered + given_up or numbers[pair, None]
        totals.setdefault(pair[0], {})[pair[1]] = {"fetched": fetched, "given_up": given_up}
    return totals


def _find_status_time(truto_run: SyncJobRun, stored_run: StoredRun | None, now: datetime) -> datetime | None:
    """Return when what Truto says came to be; None where that is unknown and may be past already."""
    before = stored_run.status_at if stored_run else None
    if truto_run.status and is_final(truto_run.status):
        # Nothing comes after that: it may replace what the last event left out.
        return max(truto_run.updated_at or truto_run.finished_at or before or now, before or _EPOCH)
    if truto_run.updated_at is None and stored_run is None:
        return now
    # An event that is on its way may be newer than this answer.
    return truto_run.updated_at


def _build_run_update(
    truto_run: SyncJobRun, status_at: datetime, *, first_seen_at: datetime, now: datetime
) -> RunUpdate:
    return RunUpdate(
        truto_run.id,
        truto_run.sync_job_id or "",
        truto_run.integrated_account_id or "",
        "",
        first_seen_at,
        truto_run.webhook_id or "",
        truto_run.status or "",
        status_at,
        status_rank(truto_run.status or ""),
        truto_run.model_dump_json(),
        now if truto_run.status == "stopped" else None,
    )
