"""Ids of deliveries and runs by the first characters of an id."""

import re
from uuid import UUID

from sqlalchemy import func, or_, select

from app.database.engine import Database
from app.store.schema import deliveries, runs

UUID_DIGITS = 32
MIN_PREFIX_DIGITS = 4


def read_id_digits(text: str) -> str:
    """Return the hexadecimal digits of an id or of its beginning, "" for any other text."""
    try:
        return UUID(text).hex
    except ValueError:
        digits = text.strip().lower().replace("-", "")
    return digits if re.fullmatch(r"[0-9a-f]{1,31}", digits) else ""


def find_delivery_ids(
    database: Database, digits: str, *, limit: int, newest_first: bool = False
) -> list[UUID]:
    """Return the ids of deliveries that begin with hexadecimal digits, in order; raises StoreUnavailable.

    digits: lower case, without dashes, at most 32. newest_first: the ids begin with a time, so in reverse.
    """
    # SQLAlchemy binds a UUID as the column stores it: a uuid on PostgreSQL, 32 characters on SQLite.
    low, high = _bounds(digits)
    statement = select(deliveries.c.id).where(deliveries.c.id.between(low, high))
    order = deliveries.c.id.desc() if newest_first else deliveries.c.id
    return [row.id for row in database.read(statement.order_by(order).limit(limit))]


def find_run_ids(
    database: Database, digits: str, *, typed: str = "", limit: int, newest_first: bool = False
) -> list[str]:
    """Return the ids of runs that begin with hexadecimal digits, in order; raises StoreUnavailable.

    typed: a whole id, which is also found if it is not a UUID. newest_first: by the first event of the run.
    """
    low, high = map(str, _bounds(digits))
    prefix = low[: len(digits) + sum(len(digits) > end for end in (8, 12, 16, 20))]
    run_id = runs.c.sync_job_run_id
    # The range uses the index. The comparison of the first characters removes ids of other shapes, which some
    # collations sort between UUIDs.
    begins = run_id.between(low, high) & (func.substr(run_id, 1, len(prefix)) == prefix)
    order = (runs.c.first_seen_at.desc(), run_id.desc()) if newest_first else (run_id,)
    statement = select(run_id).where(or_(begins, run_id == typed)).order_by(*order).limit(limit)
    return [row.sync_job_run_id for row in database.read(statement)]


def _bounds(digits: str) -> tuple[UUID, UUID]:
    """Return the smallest and the largest UUID that begin with the digits."""
    return UUID(digits.ljust(UUID_DIGITS, "0")), UUID(digits.ljust(UUID_DIGITS, "f"))
