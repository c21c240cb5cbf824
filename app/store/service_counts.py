"""Bounded counts over the whole store, for /metrics and the overview page."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, func, literal, literal_column, select

from app.database.engine import Database
from app.store.bounded_count import COUNT_LIMIT, BoundedCount, count_up_to
from app.store.failures import FAILED_STATES, IS_FAILED
from app.store.run_summaries import HAS_GAPS
from app.store.schema import dead_records, deliveries, runs
from app.truto.runs import RUN_STATUSES

OTHER_STATUS = "other"

# All rows are read in the order of an index: otherwise PostgreSQL may collect all of them before it counts
# the first.


def count_pending(database: Database) -> BoundedCount:
    """Return the number of pending deliveries; raises StoreUnavailable."""
    received_at = deliveries.c.received_at
    pending = select(received_at).where(deliveries.c.settled_at.is_(None)).order_by(received_at)
    return BoundedCount.build(database.read(select(count_up_to(pending)))[0][0])


@dataclass(frozen=True, slots=True)
class FailedDeliveries:
    """Numbers of failed deliveries. by_state: of the newest COUNT_LIMIT + 1 ones."""

    total: BoundedCount
    by_state: Mapping[str, int]


def count_failed_by_state(database: Database) -> FailedDeliveries:
    """Return the number of failed deliveries by state; raises StoreUnavailable."""
    # Not a count for each state: without statistics of newly failed deliveries, PostgreSQL would sort them.
    newest = (
        select(deliveries.c.state)
        .where(IS_FAILED)
        .order_by(deliveries.c.received_at.desc())
        .limit(COUNT_LIMIT + 1)
        .subquery()
    )
    rows = database.read(select(newest.c.state, func.count()).group_by(newest.c.state))
    numbers = {state: int(number) for state, number in rows}
    by_state = {str(state): numbers.get(state, 0) for state in FAILED_STATES}
    return FailedDeliveries(BoundedCount.build(sum(by_state.values())), by_state)


def find_oldest_failed_received_at(database: Database) -> datetime | None:
    """Return when the oldest failed delivery was received, None without any; raises StoreUnavailable."""
    received_at = deliveries.c.received_at
    rows = database.read(select(received_at).where(IS_FAILED).order_by(received_at).limit(1))
    return rows[0].received_at if rows else None


def count_dead_records(database: Database) -> BoundedCount:
    """Return the number of dead records that nobody has discarded; raises StoreUnavailable."""
    index = (dead_records.c.reason, dead_records.c.sink, dead_records.c.resource, dead_records.c.died_at)
    kept = select(*index).where(dead_records.c.discard_reason == literal_column("''")).order_by(*index)
    return BoundedCount.build(database.read(select(count_up_to(kept)))[0][0])


@dataclass(frozen=True, slots=True)
class IncompleteRuns:
    """Runs with gaps, and the records that the sinks of the newest COUNT_LIMIT + 1 of them lack."""

    runs: BoundedCount
    gap_records: int


def count_incomplete_runs(database: Database, *, since: datetime) -> IncompleteRuns:
    """Return the runs with gaps that began after a time; raises StoreUnavailable."""
    incomplete = (
        select(runs.c.gap_records)
        .where(HAS_GAPS, runs.c.first_seen_at >= since)
        .order_by(runs.c.first_seen_at.desc())
        .limit(COUNT_LIMIT + 1)
        .subquery()
    )
    [(number, records)] = database.read(select(func.count(), func.sum(incomplete.c.gap_records)))
    return IncompleteRuns(BoundedCount.build(number), int(records or 0))


def count_runs_by_status(database: Database, *, since: datetime) -> Mapping[str, int]:
    """Return the runs that began after a time by status, at most COUNT_LIMIT; raises StoreUnavailable.

    Truto may send new statuses: all of these count as OTHER_STATUS.
    """
    newest = (
        select(runs.c.status)
        .where(runs.c.first_seen_at >= since)
        .order_by(runs.c.first_seen_at.desc())
        .limit(COUNT_LIMIT)
        .subquery()
    )
    status = case((newest.c.status.in_(RUN_STATUSES), newest.c.status), else_=literal(OTHER_STATUS))
    rows = database.read(select(status, func.count()).group_by(newest.c.status))
    numbers = dict.fromkeys((*RUN_STATUSES, OTHER_STATUS), 0)
    for known, number in rows:
        numbers[known] += int(number)
    return numbers
