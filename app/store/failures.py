"""Failed deliveries and dead records, grouped by cause."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, bindparam, cast, func, literal, or_, select

from app.database.engine import Database
from app.store.bounded_count import BoundedCount
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
# Rendered as literals: a database uses a partial index only for a query that repeats its condition.
IS_FAILED = deliveries.c.state.in_(
    bindparam("failed_states", list(FAILED_STATES), expanding=True, literal_execute=True)
)
DEAD_RECORDS_JOIN = dead_records.join(deliveries, deliveries.c.id == dead_records.c.delivery_id)
# Dead records of a failed delivery are replayed and discarded together with it.
IS_STANDALONE_RECORD = deliveries.c.state.in_((DeliveryState.PENDING, DeliveryState.SETTLED))


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
        .select_from(DEAD_RECORDS_JOIN)
        .where(IS_STANDALONE_RECORD, *record_clauses(delivery_filter))
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


def record_clauses(delivery_filter: DeliveryFilter) -> list[ColumnElement[bool]]:
    """Return a filter as conditions for dead records, whose own reason is compared; without its cause."""
    of_delivery = replace(delivery_filter, reason="", cause=None)
    return [*where_clauses(of_delivery), *reason_clauses(delivery_filter)]


def reason_clauses(delivery_filter: DeliveryFilter) -> list[ColumnElement[bool]]:
    """Return the reason of a filter as a condition for dead records."""
    return [dead_records.c.reason == delivery_filter.reason] if delivery_filter.reason else []


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Failed deliveries with the same reason. since: the oldest was received."""

    reason: str
    deliveries: int
    since: datetime


@dataclass(frozen=True, slots=True)
class FailureReasons:
    """Failed deliveries by reason, the largest group first.

    total: of all groups. If it is not exact, the groups count some of the failures only.
    """

    groups: Sequence[FailureReason]
    total: BoundedCount


def count_failure_reasons(database: Database, *, limit: int) -> FailureReasons:
    """Count the failed deliveries by reason, `limit` of them at most; raises StoreUnavailable."""
    groups = find_failure_reasons(database, limit=limit + 1)
    return FailureReasons(groups, BoundedCount.build(sum(group.deliveries for group in groups), limit))


def find_failure_reasons(database: Database, *, limit: int | None = None) -> list[FailureReason]:
    """Return the failed deliveries by reason, the largest group first; raises StoreUnavailable.

    limit: the number of deliveries to read at most; None reads all.
    """
    failed = select(deliveries.c.reason, deliveries.c.received_at).where(IS_FAILED).limit(limit).subquery()
    statement = (
        select(failed.c.reason, func.count(), func.min(failed.c.received_at))
        .group_by(failed.c.reason)
        .order_by(func.count().desc(), failed.c.reason)
    )
    return [FailureReason(*row) for row in database.read(statement)]
