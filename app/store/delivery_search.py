"""Search of deliveries within a bounded time, for pages.

A rare combination of conditions may have no match among a million rows. A search therefore reads only so
many rows of one index, and returns the position at which it can be continued.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Subquery, and_, case, func, select, true, tuple_

from app.database.engine import Database
from app.store.bounded_count import BoundedCount
from app.store.delivery_filter import DeliveryFilter, DeliverySummary, where_clauses
from app.store.failures import FAILED_STATES, IS_FAILED
from app.store.models import DeliveryState
from app.store.schema import deliveries

# Of one query: 5 ms if they are in memory.
_CHUNK_ROWS = 5_000
# No further chunk is read after this time.
_SEARCH_TIME_S = 0.06
_MAX_CHUNKS = 10
# A count reads this number of rows at most.
COUNTED_ROWS = 10_000
_COLUMNS = [column for column in deliveries.c if column.name != "body"]
_POSITION = (deliveries.c.received_at, deliveries.c.id)
Position = tuple[datetime, UUID]


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Deliveries that match a filter, newest first.

    next: the position, (received_at, id), after which the search continues; None at its end. is_cut: whether
    it ended before the page was full, to save time.
    """

    deliveries: Sequence[DeliverySummary]
    next: Position | None = None
    is_cut: bool = False


def search_deliveries(
    database: Database,
    delivery_filter: DeliveryFilter,
    *,
    after: Position | None = None,
    page_size: int,
    chunk_rows: int = _CHUNK_ROWS,
) -> DeliveryPage:
    """Return one page of the deliveries that match, newest first; raises StoreUnavailable.

    after: the position to continue after. chunk_rows: that one query reads.
    """
    deadline = time.monotonic() + _SEARCH_TIME_S
    found: list[DeliverySummary] = []
    for number in range(_MAX_CHUNKS):
        if number and time.monotonic() > deadline:
            break
        # The end first: deliveries that arrive or settle between both queries would move it.
        end = _find_end_of_chunk(database, delivery_filter, after, chunk_rows)
        chunk = _select_chunk(database, delivery_filter, after, chunk_rows + _CHUNK_ROWS, end=end)
        found += _find_in_chunk(database, delivery_filter, chunk, page_size + 1 - len(found))
        if len(found) > page_size:
            last = found[page_size - 1]
            return DeliveryPage(found[:page_size], (last.received_at, last.id))
        if end is None:
            return DeliveryPage(found)
        after = end
    return DeliveryPage(found, after, is_cut=True)


def count_matches(
    database: Database, delivery_filter: DeliveryFilter, *, max_rows: int = COUNTED_ROWS
) -> BoundedCount:
    """Count the matches among the newest max_rows of the index; raises StoreUnavailable."""
    chunk = _select_chunk(database, delivery_filter, None, max_rows + 1)
    number = func.sum(_matches(delivery_filter, chunk))
    [(rows, matching)] = database.read(select(func.count(), number).select_from(chunk))
    return BoundedCount(min(int(matching or 0), max_rows), is_exact=rows <= max_rows)


def _find_in_chunk(
    database: Database, delivery_filter: DeliveryFilter, chunk: Subquery, limit: int
) -> list[DeliverySummary]:
    columns = (chunk.c[field.name] for field in fields(DeliverySummary))
    statement = select(*columns).where(_matches(delivery_filter, chunk) == 1)
    order = (chunk.c.received_at.desc(), chunk.c.id.desc())
    return [DeliverySummary(*row) for row in database.read(statement.order_by(*order).limit(limit))]


def _find_end_of_chunk(
    database: Database, delivery_filter: DeliveryFilter, after: Position | None, rows: int
) -> Position | None:
    """Return the position of the last row of a chunk; None if the index has no more rows."""
    chunk = _select_chunk(database, delivery_filter, after, rows)
    last = select(chunk.c.received_at, chunk.c.id).offset(rows - 1).limit(1)
    found = database.read(last.order_by(chunk.c.received_at.desc(), chunk.c.id.desc()))
    return (found[0].received_at, found[0].id) if found else None


def _select_chunk(
    database: Database,
    delivery_filter: DeliveryFilter,
    after: Position | None,
    rows: int,
    *,
    end: Position | None = None,
) -> Subquery:
    """Return a query of the newest rows of one index, by those conditions that the index answers.

    rows: at most. end: the position of the last one; None for any.
    """
    # SQLite would read the index on all deliveries instead, because it is in the order of the result.
    has_partial_indexes = database.dialect.name != "sqlite"
    clauses = _indexed_clauses(delivery_filter, has_partial_indexes=has_partial_indexes)
    statement = select(*_COLUMNS).where(*clauses)
    if after:
        statement = statement.where(tuple_(*_POSITION) < after)
    if end:
        statement = statement.where(tuple_(*_POSITION) >= end)
    order = (column.desc() for column in _POSITION)
    return statement.order_by(*order).limit(rows).subquery()


def _indexed_clauses(
    delivery_filter: DeliveryFilter, *, has_partial_indexes: bool
) -> list[ColumnElement[bool]]:
    """Return the conditions that the most selective index answers."""
    if delivery_filter.ids:
        return where_clauses(DeliveryFilter(ids=delivery_filter.ids))
    clauses = where_clauses(DeliveryFilter(since=delivery_filter.since, until=delivery_filter.until))
    states = {*delivery_filter.states} if has_partial_indexes else set()
    has_failed = bool(states) and states <= {*FAILED_STATES}
    if has_failed and not delivery_filter.sync_job_run_id:
        clauses.append(IS_FAILED)
    if run := delivery_filter.sync_job_run_id:
        clauses.append(deliveries.c.sync_job_run_id == run)
    elif account := delivery_filter.integrated_account_id:
        clauses.append(deliveries.c.integrated_account_id == account)
    elif has_failed:
        clauses += where_clauses(DeliveryFilter(states=delivery_filter.states, reason=delivery_filter.reason))
    elif states == {DeliveryState.PENDING}:
        clauses.append(deliveries.c.settled_at.is_(None))
    return clauses


def _matches(delivery_filter: DeliveryFilter, chunk: Subquery) -> ColumnElement[int]:
    """Return 1 for a row that matches, else 0.

    A plain condition on other tables would become a join, which may read all of their rows.
    """
    return case((and_(true(), *where_clauses(delivery_filter, chunk.c)), 1), else_=0)
