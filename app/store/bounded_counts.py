"""Counts that stop at a limit, so that a large backlog does not make them slow."""

from collections.abc import Mapping

from sqlalchemy import Select, func, literal, select

from app.database.engine import Database
from app.store.failures import FAILED_STATES, IS_FAILED
from app.store.schema import dead_records, deliveries

MAX_COUNTED = 10_000


def count_pending(database: Database) -> int:
    """Return the number of pending deliveries, MAX_COUNTED at most; raises StoreUnavailable."""
    return _count_rows(database, select(deliveries.c.received_at).where(deliveries.c.settled_at.is_(None)))


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
    return _count_rows(database, select(dead_records.c.died_at).where(is_kept))


def _count_rows(database: Database, statement: Select[tuple[object]]) -> int:
    rows = statement.limit(MAX_COUNTED).subquery()
    return int(database.read(select(func.count()).select_from(rows))[0][0])
