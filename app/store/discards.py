"""Discarding of failed deliveries, or of dead records of settled deliveries, page by page."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, func, literal, select, tuple_, update

from app.database.engine import Database
from app.store.bounded_count import BoundedCount, count_up_to
from app.store.delivery_filter import DeliveryFilter, record_cause_clauses, where_clauses
from app.store.failures import DEAD_RECORDS_JOIN, IS_FAILED, reason_clauses, record_clauses
from app.store.models import DeliveryState
from app.store.operations import Operation, add_done, move_cursor
from app.store.run_summaries import outdate_summaries
from app.store.schema import UtcDateTime, dead_records, deliveries

_PAGE_SIZE = 500


class DiscardableSet:
    """The failed deliveries, or the dead records of settled deliveries, that an operator may discard.

    Methods raise StoreUnavailable.
    """

    def __init__(self, database: Database, delivery_filter: DeliveryFilter, *, of_records: bool) -> None:
        self._database = database
        self._filter = delivery_filter
        self._of_records = of_records
        self._source = DEAD_RECORDS_JOIN if of_records else deliveries
        self._conditions = (
            _discardable_clauses(delivery_filter)
            if of_records
            else [IS_FAILED, *where_clauses(delivery_filter)]
        )

    def count(self) -> int:
        """Count the deliveries, or the records."""
        return int(self._database.read(self._select(func.count()))[0][0])

    def count_bounded(self, *, limit: int | None = None) -> BoundedCount:
        """Count the deliveries, or the records, up to a limit; by default, COUNT_LIMIT."""
        number = count_up_to(self._select(deliveries.c.id), limit=limit)
        [(counted,)] = self._database.read(select(number))
        return BoundedCount.build(counted, limit)

    def find_unaffected(self) -> list[UUID]:
        """Return the filter's ids of deliveries that are not in the set."""
        affected_ids = {row.id for row in self._database.read(self._select(deliveries.c.id).distinct())}
        return [id_ for id_ in self._filter.ids if id_ not in affected_ids]

    def discard_page(self, operation: Operation, *, reason: str, now: datetime) -> bool:
        """Discard the next page after the operation's cursor; return False if none is left.

        Nothing is changed if the operation has ended, or another process has discarded the page meanwhile.
        """
        rows = self._database.read(self._build_page(operation))
        if rows:
            with self._database.transaction() as connection:
                if move_cursor(connection, operation, tuple(rows[-1])):
                    discard = self._discard_records if self._of_records else self._discard_deliveries
                    number = discard(connection, sorted(row.id for row in rows), reason, now)
                    add_done(connection, operation.id, number)
        return bool(rows)

    def _build_page(self, operation: Operation) -> Select[Any]:
        """Return the query for the positions of the next deliveries."""
        cursor = operation.cursor
        if self._of_records:
            # By the primary key of dead records: their join needs no sorting.
            delivery_id = dead_records.c.delivery_id
            page = self._select(
                literal(operation.requested_at, UtcDateTime), delivery_id.label("id")
            ).distinct()
            page = page.where(delivery_id > cursor[1]) if cursor else page
            return page.order_by(delivery_id).limit(_PAGE_SIZE)
        position = (deliveries.c.received_at, deliveries.c.id)
        page = self._select(*position)
        page = page.where(tuple_(*position) > cursor) if cursor else page
        return page.order_by(*position).limit(_PAGE_SIZE)

    def _select(self, *columns: ColumnElement[Any]) -> Select[Any]:
        return select(*columns).select_from(self._source).where(*self._conditions)

    def _discard_deliveries(
        self, connection: Connection, ids: Sequence[UUID], reason: str, now: datetime
    ) -> int:
        # Deliveries that a replay requeued meanwhile are skipped.
        change = update(deliveries).where(
            deliveries.c.id.in_(ids), IS_FAILED, *where_clauses(replace(self._filter, ids=()))
        )
        settled_at = func.coalesce(deliveries.c.settled_at, now)
        values = {"state": DeliveryState.DISCARDED, "discard_reason": reason, "settled_at": settled_at}
        discarded = connection.execute(change.values(values).returning(deliveries.c.sync_job_run_id))
        run_ids = discarded.scalars().all()
        outdate_summaries(connection, run_ids)
        return len(run_ids)

    def _discard_records(
        self, connection: Connection, ids: Sequence[UUID], reason: str, _now: datetime
    ) -> int:
        change = update(dead_records).where(
            dead_records.c.delivery_id.in_(ids),
            *_cause_clauses(self._filter),
            *reason_clauses(self._filter),
            dead_records.c.discard_reason == "",
        )
        return connection.execute(change.values(discard_reason=reason)).rowcount


def count_dead_records(database: Database, delivery_filter: DeliveryFilter) -> int:
    """Count the dead records of settled deliveries that match; raises StoreUnavailable."""
    return DiscardableSet(database, delivery_filter, of_records=True).count()


def _discardable_clauses(delivery_filter: DeliveryFilter) -> list[ColumnElement[bool]]:
    return [
        *record_clauses(delivery_filter),
        *_cause_clauses(delivery_filter),
        deliveries.c.state == DeliveryState.SETTLED,
        dead_records.c.discard_reason == "",
    ]


def _cause_clauses(delivery_filter: DeliveryFilter) -> list[ColumnElement[bool]]:
    return record_cause_clauses(delivery_filter.cause) if delivery_filter.cause else []
