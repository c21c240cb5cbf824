"""Counts over the whole store, for /metrics and the overview page. Each stops after COUNT_LIMIT."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, literal_column, select

from app.database.engine import Database
from app.store.bounded_count import COUNT_LIMIT, count_up_to
from app.store.failures import FAILED_STATES, IS_FAILED
from app.store.run_summaries import HAS_GAPS
from app.store.schema import dead_records, deliveries, runs

# All rows are read in the order of an index: otherwise PostgreSQL may collect all of them before it counts
# the first.


def count_pending(database: Database) -> int:
    """Return the number of pending deliveries, up to COUNT_LIMIT + 1; raises StoreUnavailable."""
    received_at = deliveries.c.received_at
    pending = select(received_at).where(deliveries.c.settled_at.is_(None)).order_by(received_at)
    return int(database.read(select(count_up_to(pending)))[0][0])


def count_failed_by_state(database: Database) -> Mapping[str, int]:
    """Return the failed deliveries by state, each up to COUNT_LIMIT + 1; raises StoreUnavailable."""
    index = (deliveries.c.reason, deliveries.c.resource, deliveries.c.received_at)
    counts = [
        count_up_to(select(*index).where(IS_FAILED, deliveries.c.state == state).order_by(*index))
        for state in FAILED_STATES
    ]
    [row] = database.read(select(*counts))
    return dict(zip(FAILED_STATES, row, strict=True))


def count_dead_records(database: Database) -> int:
    """Return the dead records that nobody has discarded, up to COUNT_LIMIT + 1; raises StoreUnavailable."""
    index = (dead_records.c.reason, dead_records.c.sink, dead_records.c.resource, dead_records.c.died_at)
    kept = select(*index).where(dead_records.c.discard_reason == literal_column("''")).order_by(*index)
    return int(database.read(select(count_up_to(kept)))[0][0])


@dataclass(frozen=True, slots=True)
class IncompleteRuns:
    """Runs with gaps, at most COUNT_LIMIT, and the records that their sinks lack."""

    runs: int
    gap_records: int


def count_incomplete_runs(database: Database, *, since: datetime) -> IncompleteRuns:
    """Return the runs with gaps that began after a time; raises StoreUnavailable."""
    incomplete = (
        select(runs.c.gap_records)
        .where(HAS_GAPS, runs.c.first_seen_at >= since)
        .order_by(runs.c.first_seen_at.desc())
        .limit(COUNT_LIMIT)
        .subquery()
    )
    [(number, records)] = database.read(select(func.count(), func.sum(incomplete.c.gap_records)))
    return IncompleteRuns(int(number), int(records or 0))
