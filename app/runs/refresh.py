"""Refreshing of a stored run from Truto's API and log."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from app.runs.reconciliation import ResourceMethod
from app.store.models import RunUpdate
from app.store.runs import Runs, StoredRun
from app.truto.client import TrutoClient
from app.truto.id_places import find_account
from app.truto.run_log import LogEntry
from app.truto.runs import SyncJobRun, is_final, status_rank

# Clocks differ, and an entry may be written after the page that it describes.
_LOG_MARGIN = timedelta(hours=1)
_EPOCH = datetime.min.replace(tzinfo=UTC)


class RunRefresher:
    """Requests runs from Truto and stores the responses.

    Raises TrutoRefused, TrutoUnavailable and StoreUnavailable.
    """

    def __init__(self, runs: Runs, api: TrutoClient) -> None:
        self._runs = runs
        self._api = api

    def refresh(self, run_id: str, *, now: datetime) -> StoredRun | None:
        """Store a run's current status and return the run; None if the store still has no such run."""
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
        """Store the totals of a run's log and return the run."""
        since = run.first_seen_at - _LOG_MARGIN
        until = min(now, run.last_seen_at or now) + _LOG_MARGIN
        entries = self._api.read_log(run.sync_job_run_id, since=since, until=until)
        self._runs.save_log(run.sync_job_run_id, json.dumps(sum_log(entries)))
        return self._runs.get(run.sync_job_run_id) or run


def sum_log(entries: Iterable[LogEntry]) -> dict[str, dict[str, dict[str, int]]]:
    """Return records fetched and given up by resource and method; pure."""
    records: Counter[tuple[ResourceMethod, bool | None]] = Counter()
    for entry in entries:
        if entry.resource and entry.num_records:
            records[(entry.resource, entry.method), entry.is_delivered] += entry.num_records
    totals: dict[str, dict[str, dict[str, int]]] = {}
    for pair in {pair for pair, _ in records}:
        delivered, given_up = records[pair, True], records[pair, False]
        # An entry without a delivery may be the fetch before one: do not count its records twice.
        fetched = delivered + given_up or records[pair, None]
        totals.setdefault(pair[0], {})[pair[1]] = {"fetched": fetched, "given_up": given_up}
    return totals


def _find_status_time(truto_run: SyncJobRun, stored_run: StoredRun | None, now: datetime) -> datetime | None:
    """Return the time of Truto's status; None if the status may be outdated."""
    stored_at = stored_run.status_at if stored_run else None
    if truto_run.status and is_final(truto_run.status):
        # A final status never changes: it may add counts that the last event left out.
        return max(truto_run.updated_at or truto_run.finished_at or stored_at or now, stored_at or _EPOCH)
    if truto_run.updated_at is None and stored_at is None:
        # No event has reported a status yet. One on its way is newer than the start of the run.
        return truto_run.started_at or truto_run.created_at or now
    # An event still on its way may be newer than this response.
    return truto_run.updated_at


def _build_run_update(
    truto_run: SyncJobRun, status_at: datetime, *, first_seen_at: datetime, now: datetime
) -> RunUpdate:
    return RunUpdate(
        truto_run.id,
        truto_run.sync_job_id or "",
        find_account(truto_run.model_dump(), ""),
        "",
        first_seen_at,
        truto_run.webhook_id or "",
        truto_run.status or "",
        status_at,
        status_rank(truto_run.status or ""),
        truto_run.model_dump_json(),
        now if truto_run.status == "stopped" else None,
    )
