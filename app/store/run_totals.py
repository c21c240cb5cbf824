"""Totals of runs: sums over their deliveries and outcomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, case, exists, func, or_, select

from app.database.engine import Database
from app.store.models import DeliveryState, SinkOutcomeState
from app.store.schema import deliveries, record_errors, runs, sink_outcomes
from app.truto.events import RECORD_EVENT

# The run id of deliveries that name no run.
NO_RUN = ""
# In these states, a delivery has no sinks; routes that changed in between may have given it some before.
_WITHOUT_SINKS = (DeliveryState.UNROUTED, DeliveryState.LATE, DeliveryState.QUARANTINED)


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """Batches of a run with equal resource, method, state and reason, and their records.

    is_written: they have sink outcomes. late: records that arrived after the run had been stopped. written:
    records that sinks have, rejected or filtered, although their batches then ended without a sink.
    """

    resource: str
    method: str
    state: str
    reason: str
    is_written: bool
    batches: int
    records: int
    late: int
    written: int = 0


@dataclass(frozen=True, slots=True)
class SinkTotals:
    """Numbers of records of one resource and method for one sink: received, written, dead and filtered."""

    resource: str
    method: str
    sink: str
    records: int
    written: int
    dead: int
    filtered: int = 0


@dataclass(frozen=True, slots=True)
class RunTotals:
    """The totals of one run. errors: numbers of record errors by resource and method."""

    batches: Sequence[BatchTotals] = ()
    sinks: Sequence[SinkTotals] = ()
    errors: Mapping[tuple[str, str], int] | None = None


@dataclass(frozen=True, slots=True)
class RecordsWithoutRun:
    """Numbers of records in batches that name no run, by resource.

    attributed: their account is known, or their sinks have them without an account. unattributed: of batches
    that name no account either, and are not written.
    """

    attributed: Mapping[str, int]
    unattributed: Mapping[str, int]


def read_run_totals(database: Database, run_ids: Sequence[str]) -> dict[str, RunTotals]:
    """Return the totals of runs by id; raises StoreUnavailable."""
    # One transaction: SQLite then reads all three sums of the same moment.
    with database.read_transaction() as connection:
        batches = _read_batch_totals(connection, run_ids)
        sinks = _read_sink_totals(connection, run_ids)
        errors = _count_record_errors(connection, run_ids)
    return {
        run_id: RunTotals(batches.get(run_id, ()), sinks.get(run_id, ()), errors.get(run_id, {}))
        for run_id in run_ids
    }


def count_pending_deliveries(database: Database, run_ids: Sequence[str]) -> dict[str, int]:
    """Count the pending deliveries of runs; runs without any are left out. Raises StoreUnavailable."""
    statement = (
        select(deliveries.c.sync_job_run_id, func.count())
        .where(deliveries.c.sync_job_run_id.in_(run_ids), deliveries.c.settled_at.is_(None))
        .group_by(deliveries.c.sync_job_run_id)
    )
    return {row[0]: row[1] for row in database.read(statement)}


def count_records_without_run(
    database: Database, account: str, webhook_id: str, *, since: datetime, until: datetime
) -> RecordsWithoutRun:
    """Count the records of batches that name no run, of an account or without an account of a webhook.

    account, webhook_id: "" if unknown. Raises StoreUnavailable.
    """
    has_account = deliveries.c.integrated_account_id != ""
    is_attributed = or_(has_account, deliveries.c.state == DeliveryState.SETTLED).label("is_attributed")
    accounts = {account, ""} if webhook_id else {account}
    statement = (
        select(deliveries.c.resource, is_attributed, func.sum(deliveries.c.records))
        .where(
            *_is_without_run(since, until),
            deliveries.c.integrated_account_id.in_(sorted(accounts)),
            or_(has_account, deliveries.c.webhook_id == webhook_id),
        )
        .group_by(deliveries.c.resource, "is_attributed")
    )
    rows = [
        (resource, attributed, int(records)) for resource, attributed, records in database.read(statement)
    ]
    return RecordsWithoutRun(
        {resource: records for resource, attributed, records in rows if attributed},
        {resource: records for resource, attributed, records in rows if not attributed},
    )


def find_senders_without_run(database: Database, *, since: datetime, until: datetime) -> set[tuple[str, str]]:
    """Return the accounts and webhooks of batches that name no run; raises StoreUnavailable."""
    statement = (
        select(deliveries.c.integrated_account_id, deliveries.c.webhook_id)
        .where(*_is_without_run(since, until))
        .distinct()
    )
    return {(account, webhook_id) for account, webhook_id in database.read(statement)}


def _is_without_run(since: datetime, until: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        deliveries.c.sync_job_run_id == NO_RUN,
        deliveries.c.received_at.between(since, until),
        deliveries.c.event == RECORD_EVENT,
    )


def _read_batch_totals(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[BatchTotals]]:
    is_late = and_(runs.c.stopped_at.is_not(None), deliveries.c.received_at > runs.c.stopped_at)
    # As in the sums over all batches: of the sink with the fewest, and of the one with the most.
    written = (
        select(
            func.coalesce(
                func.min(sink_outcomes.c.written)
                + func.max(sink_outcomes.c.dead)
                + func.max(sink_outcomes.c.filtered),
                0,
            )
        )
        .where(sink_outcomes.c.delivery_id == deliveries.c.id)
        .scalar_subquery()
    )
    columns = (
        deliveries.c.resource,
        deliveries.c.method,
        deliveries.c.state,
        deliveries.c.reason,
        exists().where(sink_outcomes.c.delivery_id == deliveries.c.id).label("is_written"),
    )
    statement = (
        select(
            deliveries.c.sync_job_run_id,
            *columns,
            func.count().label("batches"),
            func.sum(deliveries.c.records).label("records"),
            func.sum(case((is_late, deliveries.c.records), else_=0)).label("late"),
            func.sum(case((deliveries.c.state.in_(_WITHOUT_SINKS), written), else_=0)).label("written"),
        )
        .select_from(deliveries.outerjoin(runs, runs.c.sync_job_run_id == deliveries.c.sync_job_run_id))
        .where(deliveries.c.sync_job_run_id.in_(run_ids), deliveries.c.event == RECORD_EVENT)
        .group_by(deliveries.c.sync_job_run_id, *columns)
    )
    totals: dict[str, list[BatchTotals]] = {}
    for run_id, *values in connection.execute(statement):
        totals.setdefault(run_id, []).append(BatchTotals(*values))
    return totals


def _read_sink_totals(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[SinkTotals]]:
    columns = (deliveries.c.resource, deliveries.c.method, sink_outcomes.c.sink)
    # A delivery that became dead after its last retry keeps the outcome "failing".
    is_given_up = and_(
        sink_outcomes.c.state == SinkOutcomeState.FAILING,
        deliveries.c.settled_at.is_not(None),
        deliveries.c.state.not_in(_WITHOUT_SINKS),
    )
    placed = sink_outcomes.c.written + sink_outcomes.c.filtered
    unwritten = case((deliveries.c.records > placed, deliveries.c.records - placed), else_=0)
    statement = (
        select(
            deliveries.c.sync_job_run_id,
            *columns,
            func.sum(deliveries.c.records),
            func.sum(sink_outcomes.c.written),
            func.sum(case((is_given_up, unwritten), else_=sink_outcomes.c.dead)),
            func.sum(sink_outcomes.c.filtered),
        )
        .select_from(deliveries.join(sink_outcomes, sink_outcomes.c.delivery_id == deliveries.c.id))
        .where(deliveries.c.sync_job_run_id.in_(run_ids), deliveries.c.event == RECORD_EVENT)
        .group_by(deliveries.c.sync_job_run_id, *columns)
    )
    totals: dict[str, list[SinkTotals]] = {}
    for run_id, *values in connection.execute(statement):
        totals.setdefault(run_id, []).append(SinkTotals(*values))
    return totals


def _count_record_errors(
    connection: Connection, run_ids: Sequence[str]
) -> dict[str, dict[tuple[str, str], int]]:
    columns = (record_errors.c.sync_job_run_id, record_errors.c.resource, record_errors.c.method)
    statement = (
        select(*columns, func.count()).where(record_errors.c.sync_job_run_id.in_(run_ids)).group_by(*columns)
    )
    counts: dict[str, dict[tuple[str, str], int]] = {}
    for run_id, resource, method, count in connection.execute(statement):
        counts.setdefault(run_id, {})[resource, method] = count
    return counts
