"""What did not reach its sinks: by its cause, and how it is given up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, bindparam, cast, func, literal, or_, select, tuple_, update

from app.database.engine import Database
from app.store.delivery_filter import DeliveryFilter, where_clauses
from app.store.models import DeliveryState, SinkOutcomeState
from app.store.reasons import RECORD
from app.store.schema import dead_records, deliveries, sink_outcomes

FAILED_STATES = (
    DeliveryState.DEAD,
    DeliveryState.QUARANTINED,
    DeliveryState.UNROUTED,
    DeliveryState.LATE,
)
_PAGE_SIZE = 500
# Spelled out, so that both databases know it for the condition of an index.
_IS_FAILED = deliveries.c.state.in_(
    bindparam("stranded", list(FAILED_STATES), expanding=True, literal_execute=True)
)
# Those of a stranded delivery go with it.
_IS_STANDALONE_RECORD = deliveries.c.state.in_((DeliveryState.PENDING, DeliveryState.SETTLED))


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """What is stranded for one cause, and when that began and last was; an example is the id of a delivery.

    state: of the deliveries; "record" where they are single dead records. sink: of records, "" where they
    could not be read. discarded: why they were given up, "" where they were not.
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
    """Return what did not reach its sinks, by cause, the most first; raises StoreUnavailable.

    Records are left out where the selection names states: they have none.
    """
    groups = _group_deliveries(database, delivery_filter, with_discarded=with_discarded)
    if not delivery_filter.states:
        groups += _group_dead_records(database, delivery_filter, with_discarded=with_discarded)
    return sorted(groups, key=lambda group: -group.number)


def count_failed(database: Database, delivery_filter: DeliveryFilter) -> int:
    """Count the deliveries that `discard` would give up; raises StoreUnavailable."""
    statement = (
        select(func.count()).select_from(deliveries).where(_IS_FAILED, *where_clauses(delivery_filter))
    )
    return int(database.read(statement)[0][0])


def count_dead_records(database: Database, delivery_filter: DeliveryFilter) -> int:
    """Count the dead records that `discard_records` would give up; raises StoreUnavailable."""
    statement = (
        select(func.count()).select_from(_DEAD_RECORDS_JOIN).where(*_discardable_clauses(delivery_filter))
    )
    return int(database.read(statement)[0][0])


def discard_deliveries(
    database: Database, delivery_filter: DeliveryFilter, *, reason: str, now: datetime
) -> Iterator[int]:
    """Give deliveries up, page by page; yields how many each page had. Raises StoreUnavailable.

    What a replay has taken up meanwhile is left to it.
    """
    place = tuple_(deliveries.c.received_at, deliveries.c.id)
    page = select(deliveries.c.received_at, deliveries.c.id).where(
        _IS_FAILED, *where_clauses(delivery_filter)
    )
    page = page.order_by(deliveries.c.received_at, deliveries.c.id).limit(_PAGE_SIZE)
    rows = database.read(page)
    while rows:
        ids = sorted(row.id for row in rows)
        change = update(deliveries).where(deliveries.c.id.in_(ids), _IS_FAILED)
        settled_at = func.coalesce(deliveries.c.settled_at, now)
        values = {"state": DeliveryState.DISCARDED, "discard_reason": reason, "settled_at": settled_at}
        yield database.execute(change.values(values))
        rows = database.read(page.where(place > tuple(rows[-1])))


def discard_dead_records(
    database: Database, delivery_filter: DeliveryFilter, *, reason: str
) -> Iterator[int]:
    """Give dead records of settled deliveries up; yields how many each page had. Raises StoreUnavailable."""
    its = dead_records.c.delivery_id
    page = (
        select(its)
        .distinct()
        .select_from(_DEAD_RECORDS_JOIN)
        .where(*_discardable_clauses(delivery_filter))
        .order_by(its)
    )
    page = page.limit(_PAGE_SIZE)
    rows = database.read(page)
    while rows:
        of_these = its.in_([row[0] for row in rows])
        change = update(dead_records).where(
            of_these, *_reason_clauses(delivery_filter), dead_records.c.discard_reason == ""
        )
        yield database.execute(change.values(discard_reason=reason))
        rows = database.read(page.where(its > rows[-1][0]))


_DEAD_RECORDS_JOIN = dead_records.join(deliveries, deliveries.c.id == dead_records.c.delivery_id)


def _group_deliveries(
    database: Database, delivery_filter: DeliveryFilter, *, with_discarded: bool
) -> list[FailureGroup]:
    group = (deliveries.c.state, deliveries.c.reason, deliveries.c.resource, deliveries.c.discard_reason)
    statement = (
        select(
            *group, literal("").label("sink"), *_build_aggregates(deliveries.c.received_at, deliveries.c.id)
        )
        .where(
            or_(_IS_FAILED, deliveries.c.state == DeliveryState.DISCARDED) if with_discarded else _IS_FAILED
        )
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


def _build_aggregates(at: ColumnElement[datetime], its: ColumnElement[UUID]) -> Sequence[ColumnElement[Any]]:
    return (
        func.count().label("number"),
        func.min(at).label("oldest"),
        func.max(at).label("newest"),
        # Ids begin with their event's time: the newest. As text, since PostgreSQL has no greatest uuid.
        func.max(cast(its, Text)).label("example"),
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
    """Return what a selection means for dead records: its reason is theirs."""
    return [*where_clauses(replace(delivery_filter, reason="")), *_reason_clauses(delivery_filter)]


def _reason_clauses(delivery_filter: DeliveryFilter) -> list[ColumnElement[bool]]:
    return [dead_records.c.reason == delivery_filter.reason] if delivery_filter.reason else []


@dataclass(frozen=True, slots=True)
class FailingSink:
    """A sink for which deliveries wait. since: when the oldest of them came. reason: one of theirs."""

    sink: str
    since: datetime
    reason: str
    deliveries: int


def find_failing_sinks(database: Database) -> list[FailingSink]:
    """Return the sinks that were tried and did not take everything yet; raises StoreUnavailable."""
    statement = (
        select(
            sink_outcomes.c.sink,
            func.min(deliveries.c.received_at),
            func.max(sink_outcomes.c.reason),
            func.count(),
        )
        .select_from(sink_outcomes.join(deliveries, deliveries.c.id == sink_outcomes.c.delivery_id))
        # What was given up in the end keeps its last outcome, and waits no more.
        .where(sink_outcomes.c.state == SinkOutcomeState.FAILING, deliveries.c.settled_at.is_(None))
        .group_by(sink_outcomes.c.sink)
        .order_by(sink_outcomes.c.sink)
    )
    return [FailingSink(*row) for row in database.read(statement)]
