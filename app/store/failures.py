"""Failed deliveries and dead records: group by cause, count, discard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, bindparam, cast, func, literal, or_, select, tuple_, update

from app.database.engine import Database
from app.store.delivery_filter import DeliveryFilter, where_clauses
from app.store.models import DeliveryState
from app.store.reasons import RECORD
from app.store.schema import dead_records, deliveries

FAILED_STATES = (
    DeliveryState.DEAD,
    DeliveryState.QUARANTINED,
    DeliveryState.UNROUTED,
    DeliveryState.LATE,
)
_PAGE_SIZE = 500
# Rendered as literals: a database uses a partial index only for a query that repeats its condition.
IS_FAILED = deliveries.c.state.in_(
    bindparam("failed_states", list(FAILED_STATES), expanding=True, literal_execute=True)
)
# Dead records of a failed delivery are replayed and discarded together with it.
_IS_STANDALONE_RECORD = deliveries.c.state.in_((DeliveryState.PENDING, DeliveryState.SETTLED))


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed deliveries or dead records with the same cause. example: the id of a delivery.

    state: of the deliveries; "record" for dead records. sink: of dead records; "" if they are unreadable.
    discard_reason: "" if they were not discarded. oldest, newest: received_at, or died_at of dead records.
    """

    state: str
    reason: str
    sink: str
    resource: str
    discard_reason: str
    number: int
    oldest: datetime
    newest: datetime
    example: UUID


def group_failures(
    database: Database, delivery_filter: DeliveryFilter, *, with_discarded: bool = False
) -> list[FailureGroup]:
    """Return failed deliveries and dead records by cause, largest group first; raises StoreUnavailable.

    Dead records are left out if the filter names states, because records have no state.
    """
    groups = _group_deliveries(database, delivery_filter, with_discarded=with_discarded)
    if not delivery_filter.states:
        groups += _group_dead_records(database, delivery_filter, with_discarded=with_discarded)
    return sorted(groups, key=lambda group: -group.number)


def count_failed(database: Database, delivery_filter: DeliveryFilter) -> int:
    """Count the deliveries that `discard_deliveries` would discard; raises StoreUnavailable."""
    statement = select(func.count()).select_from(deliveries).where(IS_FAILED, *where_clauses(delivery_filter))
    return int(database.read(statement)[0][0])


def count_dead_records(database: Database, delivery_filter: DeliveryFilter) -> int:
    """Count the dead records that `discard_dead_records` would discard; raises StoreUnavailable."""
    statement = (
        select(func.count()).select_from(_DEAD_RECORDS_JOIN).where(*_discardable_clauses(delivery_filter))
    )
    return int(database.read(statement)[0][0])


def discard_deliveries(
    database: Database, delivery_filter: DeliveryFilter, *, reason: str, now: datetime
) -> Iterator[int]:
    """Discard failed deliveries page by page; yield the number of each page. Raises StoreUnavailable.

    Deliveries that a replay requeued meanwhile are skipped.
    """
    position = tuple_(deliveries.c.received_at, deliveries.c.id)
    page = select(deliveries.c.received_at, deliveries.c.id).where(IS_FAILED, *where_clauses(delivery_filter))
    page = page.order_by(deliveries.c.received_at, deliveries.c.id).limit(_PAGE_SIZE)
    rows = database.read(page)
    while rows:
        ids = sorted(row.id for row in rows)
        change = update(deliveries).where(deliveries.c.id.in_(ids), IS_FAILED)
        settled_at = func.coalesce(deliveries.c.settled_at, now)
        values = {"state": DeliveryState.DISCARDED, "discard_reason": reason, "settled_at": settled_at}
        yield database.execute(change.values(values))
        rows = database.read(page.where(position > tuple(rows[-1])))


def discard_dead_records(
    database: Database, delivery_filter: DeliveryFilter, *, reason: str
) -> Iterator[int]:
    """Discard dead records of settled deliveries page by page; yield the number of each page."""
    delivery_id = dead_records.c.delivery_id
    page = (
        select(delivery_id)
        .distinct()
        .select_from(_DEAD_RECORDS_JOIN)
        .where(*_discardable_clauses(delivery_filter))
        .order_by(delivery_id)
    )
    page = page.limit(_PAGE_SIZE)
    rows = database.read(page)
    while rows:
        is_selected = delivery_id.in_([row[0] for row in rows])
        change = update(dead_records).where(
            is_selected, *_reason_clauses(delivery_filter), dead_records.c.discard_reason == ""
        )
        yield database.execute(change.values(discard_reason=reason))
        rows = database.read(page.where(delivery_id > rows[-1][0]))


class Discard:
    """The failed deliveries, or dead records of settled deliveries, that an operator discards.

    until: deliveries received later are excluded, because the operator's count did not include them.
    """

    def __init__(
        self, database: Database, delivery_filter: DeliveryFilter, *, of_records: bool, until: datetime
    ) -> None:
        self._database = database
        self._filter = replace(delivery_filter, until=min(delivery_filter.until or until, until))
        self._of_records = of_records
        self._now = until

    def count(self) -> int:
        """Count the deliveries, or the records, that `discard` would change; raises StoreUnavailable."""
        count = count_dead_records if self._of_records else count_failed
        return count(self._database, self._filter)

    def find_unaffected(self) -> list[UUID]:
        """Return the filter's ids of deliveries that `discard` would not change; raises StoreUnavailable."""
        ids = self._filter.ids
        source, conditions = (
            (_DEAD_RECORDS_JOIN, _discardable_clauses(self._filter))
            if self._of_records
            else (deliveries, [IS_FAILED, *where_clauses(self._filter)])
        )
        rows = self._database.read(select(deliveries.c.id).select_from(source).where(*conditions).distinct())
        affected_ids = {row.id for row in rows}
        return [id_ for id_ in ids if id_ not in affected_ids]

    def discard(self, reason: str) -> Iterator[int]:
        """Discard page by page; yield the number of each page. Raises StoreUnavailable."""
        if self._of_records:
            return discard_dead_records(self._database, self._filter, reason=reason)
        return discard_deliveries(self._database, self._filter, reason=reason, now=self._now)


_DEAD_RECORDS_JOIN = dead_records.join(deliveries, deliveries.c.id == dead_records.c.delivery_id)


def _group_deliveries(
    database: Database, delivery_filter: DeliveryFilter, *, with_discarded: bool
) -> list[FailureGroup]:
    group = (deliveries.c.state, deliveries.c.reason, deliveries.c.resource, deliveries.c.discard_reason)
    statement = (
        select(
            *group, literal("").label("sink"), *_build_aggregates(deliveries.c.received_at, deliveries.c.id)
        )
        .where(or_(IS_FAILED, deliveries.c.state == DeliveryState.DISCARDED) if with_discarded else IS_FAILED)
        .where(*where_clauses(delivery_filter))
        .group_by(*group)
    )
    return [_to_failure_group(row) for row in database.read(statement)]


def _group_dead_records(
    database: Database, delivery_filter: DeliveryFilter, *, with_discarded: bool
) -> list[FailureGroup]:
    group = (dead_records.c.reason, dead_records.c.sink, deliveries.c.resource, dead_records.c.discard_reason)
    sums = _build_aggregates(dead_records.c.died_at, dead_records.c.delivery_id)
    statement = (
        select(*group, literal(RECORD).label("state"), *sums)
        .select_from(_DEAD_RECORDS_JOIN)
        .where(_IS_STANDALONE_RECORD, *_record_clauses(delivery_filter))
        .group_by(*group)
    )
    if not with_discarded:
        statement = statement.where(dead_records.c.discard_reason == "")
    return [_to_failure_group(row) for row in database.read(statement)]


def _build_aggregates(
    time: ColumnElement[datetime], delivery_id: ColumnElement[UUID]
) -> Sequence[ColumnElement[Any]]:
    return (
        func.count().label("number"),
        func.min(time).label("oldest"),
        func.max(time).label("newest"),
        # The newest: ids begin with the time of their event. As text: PostgreSQL has no max() of uuid.
        func.max(cast(delivery_id, Text)).label("example"),
    )


def _to_failure_group(row: Any) -> FailureGroup:
    return FailureGroup(**{**row._asdict(), "example": UUID(row.example)})


def _discardable_clauses(delivery_filter: DeliveryFilter) -> list[ColumnElement[bool]]:
    return [
        *_record_clauses(delivery_filter),
        deliveries.c.state == DeliveryState.SETTLED,
        dead_records.c.discard_reason == "",
    ]


def _record_clauses(delivery_filter: DeliveryFilter) -> list[ColumnElement[bool]]:
    """Return a filter as conditions for dead records, whose own reason is compared."""
    return [*where_clauses(replace(delivery_filter, reason="")), *_reason_clauses(delivery_filter)]


def _reason_clauses(delivery_filter: DeliveryFilter) -> list[ColumnElement[bool]]:
    return [dead_records.c.reason == delivery_filter.reason] if delivery_filter.reason else []


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Failed deliveries with the same reason. since: the oldest was received."""

    reason: str
    deliveries: int
    since: datetime


def find_failure_reasons(database: Database, *, limit: int | None = None) -> list[FailureReason]:
    """Return the failed deliveries by reason, largest group first; raises StoreUnavailable.

    limit: the number of deliveries to read at most; None reads all.
    """
    failed = select(deliveries.c.reason, deliveries.c.received_at).where(IS_FAILED).limit(limit).subquery()
    statement = (
        select(failed.c.reason, func.count(), func.min(failed.c.received_at))
        .group_by(failed.c.reason)
        .order_by(func.count().desc(), failed.c.reason)
    )
    return [FailureReason(*row) for row in database.read(statement)]
