"""What Truto says of a run beyond its events: how it stands, and what its log adds up to."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from app.runs.reconciliation import Pair
from app.store.facts import RunSeen
from app.store.runs import KnownRun, RunBook
from app.truto.api import TrutoApi
from app.truto.run_log import LogEntry
from app.truto.runs import SyncJobRun, is_final, rank

# Clocks differ, and an entry may be written after what it tells of.
_MARGIN = timedelta(hours=1)
_EPOCH = datetime.min.replace(tzinfo=UTC)


class Inquiry:
    """Asks Truto about runs and writes down what it says.

    Raises TrutoRefused, TrutoUnavailable and StoreUnavailable.
    """

    def __init__(self, book: RunBook, api: TrutoApi) -> None:
        self._book = book
        self._api = api

    def ask(self, run_id: str, *, now: datetime) -> KnownRun | None:
        """Have a run stand as Truto says it does now. None where nobody knows it."""
        told = self._api.get_run(run_id)
        known = self._book.get(run_id)
        if at := _moment(told, known, now):
            self._book.note(_seen(told, at, first_seen_at=known.first_seen_at if known else now, now=now))
        return self._book.get(run_id)

    def read_log(self, run: KnownRun, *, now: datetime) -> KnownRun:
        """Add up what Truto's log says of a run's pages."""
        began = run.first_seen_at - _MARGIN
        until = min(now, run.last_seen_at or now) + _MARGIN
        entries = self._api.read_log(run.sync_job_run_id, since=began, until=until)
        self._book.note_log(run.sync_job_run_id, json.dumps(add_up(entries)))
        return self._book.get(run.sync_job_run_id) or run


def add_up(entries: Iterable[LogEntry]) -> dict[str, dict[str, dict[str, int]]]:
    """Sum a log up by resource and method: records fetched, and records given up. Pure."""
    numbers: Counter[tuple[Pair, bool | None]] = Counter()
    for entry in entries:
        if entry.resource and entry.num_records:
            numbers[(entry.resource, entry.method), entry.is_delivered] += entry.num_records
    found: dict[str, dict[str, dict[str, int]]] = {}
    for pair in {pair for pair, _ in numbers}:
        taken, given_up = numbers[pair, True], numbers[pair, False]
        # What says nothing of a delivery may tell of the fetch before it: not to be counted twice.
        fetched = taken + given_up or numbers[pair, None]
        found.setdefault(pair[0], {})[pair[1]] = {"fetched": fetched, "given_up": given_up}
    return found


def _moment(told: SyncJobRun, known: KnownRun | None, now: datetime) -> datetime | None:
    """Return when what Truto says came to be; None where that is unknown and may be past already."""
    before = known.status_at if known else None
    if told.status and is_final(told.status):
        # Nothing comes after that: it may replace what the last event left out.
        return max(told.updated_at or told.finished_at or before or now, before or _EPOCH)
    if told.updated_at is None and known is None:
        return now
    # An event that is on its way may be newer than this answer.
    return told.updated_at


def _seen(told: SyncJobRun, at: datetime, *, first_seen_at: datetime, now: datetime) -> RunSeen:
    return RunSeen(
        told.id,
        told.sync_job_id or "",
        told.integrated_account_id or "",
        "",
        first_seen_at,
        told.webhook_id or "",
        told.status or "",
        at,
        rank(told.status or ""),
        told.model_dump_json(),
        now if told.status == "stopped" else None,
    )
