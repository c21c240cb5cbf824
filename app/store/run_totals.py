"""What became of runs' records, many runs at once: sums over deliveries and their outcomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, exists, func, select

from app.database.engine import Store, one_statement, store_faults
from app.store.schema import deliveries, outcomes, record_errors, runs
from app.truto.events import BATCH

# Its deliveries name no run.
NO_RUN = ""


@dataclass(frozen=True, slots=True)
class Arrived:
    """Batches of one resource and method of a run that ended alike, and their records.

    is_written: whether any sink was to have them. late: records that came after the run had been stopped.
    """

    resource: str
    method: str
    state: str
    reason: str
    is_written: bool
    batches: int
    records: int
    late: int


@dataclass(frozen=True, slots=True)
class InSink:
    """What one sink made of the records of one resource and method: it got them, wrote them, refused them."""

    resource: str
    method: str
    sink: str
    records: int
    written: int
    dead: int


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is known of one run's records. errors: record errors, by resource and method."""

    arrived: Sequence[Arrived] = ()
    sinks: Sequence[InSink] = ()
    errors: Mapping[tuple[str, str], int] | None = None


def read_figures(store: Store, run_ids: Sequence[str]) -> dict[str, Figures]:
    """Return the figures of these runs, by their ids; raises StoreUnavailable."""
    with store_faults(), one_statement(store) as connection:
        arrived = _arrived(connection, run_ids)
        sinks = _in_sinks(connection, run_ids)
        errors = _errors(connection, run_ids)
    return {
        run_id: Figures(arrived.get(run_id, ()), sinks.get(run_id, ()), errors.get(run_id, {}))
        for run_id in run_ids
    }


def _arrived(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[Arrived]]:
    is_late = and_(runs.c.stopped_at.is_not(None), deliveries.c.received_at > runs.c.stopped_at)
    columns = (
        deliveries.c.resource,
        deliveries.c.method,
        deliveries.c.state,
        deliveries.c.reason,
        exists().where(outcomes.c.delivery_id == deliveries.c.id).label("is_written"),
    )
    statement = (
        select(
            deliveries.c.sync_job_run_id,
            *columns,
            func.count().label("batches"),
            func.sum(deliveries.c.records).label("records"),
            func.sum(case((is_late, deliveries.c.records), else_=0)).label("late"),
        )
        .select_from(deliveries.outerjoin(runs, runs.c.sync_job_run_id == deliveries.c.sync_job_run_id))
        .where(deliveries.c.sync_job_run_id.in_(run_ids), deliveries.c.event == BATCH)
        .group_by(deliveries.c.sync_job_run_id, *columns)
    )
    found: dict[str, list[Arrived]] = {}
    for run_id, *line in connection.execute(statement):
        found.setdefault(run_id, []).append(Arrived(*line))
    return found


def _in_sinks(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[InSink]]:
    columns = (deliveries.c.resource, deliveries.c.method, outcomes.c.sink)
    # A sink that did not take it for as long as it was tried keeps that as its last outcome.
    is_given_up = and_(outcomes.c.state == "failing", deliveries.c.settled_at.is_not(None))
    statement = (
        select(
            deliveries.c.sync_job_run_id,
            *columns,
            func.sum(deliveries.c.records),
            func.sum(outcomes.c.written),
            func.sum(case((is_given_up, deliveries.c.records), else_=outcomes.c.dead)),
        )
        .select_from(deliveries.join(outcomes, outcomes.c.delivery_id == deliveries.c.id))
        .where(deliveries.c.sync_job_run_id.in_(run_ids), deliveries.c.event == BATCH)
        .group_by(deliveries.c.sync_job_run_id, *columns)
    )
    found: dict[str, list[InSink]] = {}
    for run_id, *line in connection.execute(statement):
        found.setdefault(run_id, []).append(InSink(*line))
    return found


def _errors(connection: Connection, run_ids: Sequence[str]) -> dict[str, dict[tuple[str, str], int]]:
    columns = (record_errors.c.sync_job_run_id, record_errors.c.resource, record_errors.c.method)
    statement = (
        select(*columns, func.count()).where(record_errors.c.sync_job_run_id.in_(run_ids)).group_by(*columns)
    )
    found: dict[str, dict[tuple[str, str], int]] = {}
    for run_id, resource, method, count in connection.execute(statement):
        found.setdefault(run_id, {})[resource, method] = count
    return found
