"""What became of deliveries: outcomes per sink, dead records, record errors, runs and their totals.

Totals are sums over the facts, never counters beside them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, Table, and_, func, literal, or_, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from app.store.schema import dead_records, deliveries, outcomes, record_errors, runs


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one sink made of one delivery. written, dead: records; dead counts unreadable ones too."""

    delivery_id: UUID
    sink: str
    state: Literal["done", "failing", "dead"]
    written: int
    dead: int
    reason: str
    message: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class DeadRecord:
    """A record that could not be read (sink "") or that a sink refused. raw: its JSON as it came."""

    delivery_id: UUID
    sink: str
    ordinal: int
    reason: str
    message: str
    raw: str
    died_at: datetime


@dataclass(frozen=True, slots=True)
class RecordErrorRow:
    """An error Truto reports about fetching from the customer's account. raw: its JSON as it came."""

    delivery_id: UUID
    ordinal: int
    sync_job_run_id: str
    resource: str
    method: str
    remote_status: int | None
    message: str
    raw: str


@dataclass(frozen=True, slots=True)
class RunSeen:
    """What a delivery says about its run; only a lifecycle event names status, status_at and run (JSON)."""

    sync_job_run_id: str
    sync_job_id: str
    integrated_account_id: str
    environment_id: str
    first_seen_at: datetime
    status: str = ""
    status_at: datetime | None = None
    status_rank: int = -1
    run: str | None = None


@dataclass(frozen=True, slots=True)
class ResourceTotals:
    """One resource and method of a run in one sink; sink "" where the deliveries went nowhere (yet).

    batches: deliveries. arrived, written, dead: records. unsettled: deliveries not finished with.
    """

    resource: str
    method: str
    sink: str
    batches: int
    arrived: int
    written: int
    dead: int
    unsettled: int


def record_outcomes(connection: Connection, rows: Sequence[Outcome]) -> None:
    """Set what each sink made of each delivery; a later attempt replaces an earlier one."""
    _upsert(connection, outcomes, [asdict(row) for row in rows])


def record_dead(connection: Connection, rows: Sequence[DeadRecord]) -> None:
    """Keep dead records; one that died before is kept as it died last."""
    _upsert(connection, dead_records, [asdict(row) for row in rows])


def record_remote_errors(connection: Connection, rows: Sequence[RecordErrorRow]) -> None:
    """Keep record errors, a row each."""
    _upsert(connection, record_errors, [asdict(row) for row in rows])


def record_runs(connection: Connection, seen: Iterable[RunSeen]) -> None:
    """Note which runs exist and how they stand; an older event never overwrites a newer one's status."""
    newest: dict[str, RunSeen] = {}
    for sight in seen:
        known = newest.get(sight.sync_job_run_id)
        if known is None or _recency(known) <= _recency(sight):
            newest[sight.sync_job_run_id] = sight
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(runs)
    new = statement.excluded
    is_newer = and_(
        new.status_at.is_not(None),
        or_(
            runs.c.status_at.is_(None),
            tuple_(runs.c.status_at, runs.c.status_rank) <= tuple_(new.status_at, new.status_rank),
        ),
    )
    changed = {c.name: new[c.name] for c in runs.c if c.name not in ("sync_job_run_id", "first_seen_at")}
    statement = statement.on_conflict_do_update(
        index_elements=["sync_job_run_id"], set_=changed, where=is_newer
    )
    # In the order of the key: two workers that know the same runs must lock them in one order.
    rows = [asdict(newest[run_id]) for run_id in sorted(newest)]
    if rows:
        connection.execute(statement, rows)


def _recency(sight: RunSeen) -> tuple[bool, datetime, int]:
    return (sight.status_at is not None, sight.status_at or sight.first_seen_at, sight.status_rank)


def finished_sinks(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, dict[str, Outcome]]:
    """Return the outcomes that need no further attempt (done or dead), by delivery and sink."""
    statement = select(outcomes).where(outcomes.c.delivery_id.in_(ids), outcomes.c.state != "failing")
    finished: dict[UUID, dict[str, Outcome]] = {id_: {} for id_ in ids}
    for row in connection.execute(statement).mappings():
        outcome = Outcome(**row)
        finished[outcome.delivery_id][outcome.sink] = outcome
    return finished


def run_totals(connection: Connection, sync_job_run_id: str) -> list[ResourceTotals]:
    """Sum up what arrived of a run and what each sink holds of it, by resource, method and sink."""
    unsettled = func.count().filter(deliveries.c.state == "pending")
    sink = func.coalesce(outcomes.c.sink, literal(""))
    statement = (
        select(
            deliveries.c.resource,
            deliveries.c.method,
            sink.label("sink"),
            func.count().label("batches"),
            func.sum(deliveries.c.records).label("arrived"),
            func.coalesce(func.sum(outcomes.c.written), 0).label("written"),
            func.coalesce(func.sum(outcomes.c.dead), 0).label("dead"),
            unsettled.label("unsettled"),
        )
        .select_from(deliveries.outerjoin(outcomes, outcomes.c.delivery_id == deliveries.c.id))
        .where(deliveries.c.sync_job_run_id == sync_job_run_id, deliveries.c.event == "sync_job_run:record")
        .group_by(deliveries.c.resource, deliveries.c.method, sink)
        .order_by(deliveries.c.resource, deliveries.c.method, sink)
    )
    return [ResourceTotals(**row) for row in connection.execute(statement).mappings()]


def count_record_errors(connection: Connection, sync_job_run_id: str) -> int:
    """Count the record errors of a run."""
    statement = select(func.count()).where(record_errors.c.sync_job_run_id == sync_job_run_id)
    return connection.execute(statement).scalar_one()


def run_status(connection: Connection, sync_job_run_id: str) -> str | None:
    """Return a run's status as its newest event tells; None for a run never heard of."""
    statement = select(runs.c.status).where(runs.c.sync_job_run_id == sync_job_run_id)
    return connection.execute(statement).scalar_one_or_none()


def _upsert(connection: Connection, table: Table, rows: Sequence[dict[str, object]]) -> None:
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    keys = [column.name for column in table.primary_key]
    changed = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
    statement = statement.on_conflict_do_update(index_elements=keys, set_=changed)
    connection.execute(statement, sorted(rows, key=lambda row: tuple(str(row[key]) for key in keys)))
