"""Counts that stop at a limit, so that a large backlog does not make them slow."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, ColumnElement, func, literal, select

from app.database.engine import Database
from app.store.failures import FAILED_STATES, IS_FAILED
from app.store.run_summaries import HAS_GAPS
from app.store.schema import dead_records, deliveries, runs

MAX_COUNTED = 10_000


def count_pending(database: Database) -> int:
    """Return the number of pending deliveries, MAX_COUNTED at most; raises StoreUnavailable."""
    return _count_rows(database, deliveries.c.received_at, deliveries.c.settled_at.is_(None))


def count_failed_by_state(database: Database) -> Mapping[str, int]:
    """Return the numbers of failed deliveries by state; raises StoreUnavailable.

    If there are more than MAX_COUNTED, the newest ones are counted.
    """
    newest = (
        select(deliveries.c.state)
        .where(IS_FAILED)
        .order_by(deliveries.c.received_at.desc())
        .limit(MAX_COUNTED)
        .subquery()
    )
    rows = database.read(select(newest.c.state, func.count()).group_by(newest.c.state))
    numbers = {state: int(number) for state, number in rows}
    return {state: numbers.get(state, 0) for state in FAILED_STATES}


def count_dead_records(database: Database) -> int:
    """Return the number of dead records, MAX_COUNTED at most; raises StoreUnavailable.

    Records that an operator discarded are not counted.
    """
    # A literal: a database uses a partial index only for a query that repeats its condition.
    is_kept = dead_records.c.discard_reason == literal("", literal_execute=True)
    return _count_rows(database, dead_records.c.died_at, is_kept)


@dataclass(frozen=True, slots=True)
class IncompleteRuns:
    """Runs with gaps, MAX_COUNTED at most, and the records that their sinks lack."""

    runs: int
    gap_records: int


def count_incomplete_runs(database: Database, *, since: datetime) -> IncompleteRuns:
    """Return the runs with gaps that began after a time; raises StoreUnavailable."""
    incomplete = (
        select(runs.c.gap_records)
        .where(HAS_GAPS, runs.c.first_seen_at >= since)
        .order_by(runs.c.first_seen_at.desc())
        .limit(MAX_COUNTED)
        .subquery()
    )
    [(number, records)] = database.read(select(func.count(), func.sum(incomplete.c.gap_records)))
    return IncompleteRuns(int(number), int(records or 0))


def _count_rows(database: Database, column: Column[datetime], condition: ColumnElement[bool]) -> int:
    # In the order of the index: without an order, PostgreSQL may collect all rows before it counts the first.
    rows = select(column).where(condition).order_by(column).limit(MAX_COUNTED).subquery()
    return int(database.read(select(func.count()).select_from(rows))[0][0])
