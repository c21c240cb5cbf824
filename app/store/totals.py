"""What is known of a run: sums over its deliveries and their outcomes, never counters beside them."""

from dataclasses import dataclass

from sqlalchemy import func, literal, select

from app.store.engine import Store, store_faults
from app.store.schema import deliveries, outcomes, record_errors, runs


@dataclass(frozen=True, slots=True)
class ResourceTotals:
    """One resource and method of a run in one sink; sink "" where the deliveries went nowhere (yet).

    batches: deliveries. arrived, written, dead: records. unsettled: deliveries not finished with.
    errors: record errors that Truto reported for the resource and method, the same whatever the sink.
    """

    resource: str
    method: str
    sink: str
    batches: int
    arrived: int
    written: int
    dead: int
    unsettled: int
    errors: int


def run_totals(store: Store, sync_job_run_id: str) -> list[ResourceTotals]:
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
    )
    errors = (
        select(record_errors.c.resource, record_errors.c.method, func.count())
        .where(record_errors.c.sync_job_run_id == sync_job_run_id)
        .group_by(record_errors.c.resource, record_errors.c.method)
    )
    with store_faults(), store.connect() as connection:
        lines = connection.execute(statement).mappings().all()
        counts = {(resource, method): count for resource, method, count in connection.execute(errors)}
    totals = [
        ResourceTotals(**line, errors=counts.get((line["resource"], line["method"]), 0)) for line in lines
    ]
    # What only failed has no batch, but is part of the run all the same.
    barren = counts.keys() - {(line.resource, line.method) for line in totals}
    totals += [ResourceTotals(*pair, "", 0, 0, 0, 0, 0, counts[pair]) for pair in barren]
    return sorted(totals, key=lambda line: (line.resource, line.method, line.sink))


def count_record_errors(store: Store, sync_job_run_id: str) -> int:
    """Count the record errors of a run."""
    statement = select(func.count()).where(record_errors.c.sync_job_run_id == sync_job_run_id)
    with store_faults(), store.connect() as connection:
        return connection.execute(statement).scalar_one()


def run_status(store: Store, sync_job_run_id: str) -> str | None:
    """Return a run's status as its newest event tells; None for a run never heard of."""
    statement = select(runs.c.status).where(runs.c.sync_job_run_id == sync_job_run_id)
    with store_faults(), store.connect() as connection:
        return connection.execute(statement).scalar_one_or_none()
