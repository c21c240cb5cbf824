"""Which deliveries a command is about: filters, and the way through them, oldest first or newest first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, select, tuple_

from app.database.engine import Database
from app.store.schema import dead_records, deliveries, sink_outcomes

_PAGE_SIZE = 500
_EXACT_FILTERS = (
    "sync_job_run_id",
    "integrated_account_id",
    "environment_id",
    "webhook_id",
    "sync_job_id",
    "method",
)


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Filters, all of which must hold; empty ones hold for everything.

    resource, event: may hold `*`. states: any of them. since, until: of when it came, `until` left out.
    sink: those that it was written to, or to be written to. reason: why it is where it is. has_dead_records:
    some of its records are dead, for `record_reason` where that is named, and were not given up.
    """

    ids: Sequence[UUID] = ()
    sync_job_run_id: str = ""
    sync_job_id: str = ""
    integrated_account_id: str = ""
    environment_id: str = ""
    webhook_id: str = ""
    event: str = ""
    resource: str = ""
    method: str = ""
    states: Sequence[str] = ()
    reason: str = ""
    sink: str = ""
    has_dead_records: bool = False
    record_reason: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it leaves nothing out."""
        return not any(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class DeliverySummary:
    """A stored delivery, as far as lists need it."""

    id: UUID
    received_at: datetime
    event: str
    sync_job_run_id: str
    integrated_account_id: str
    resource: str
    method: str
    state: str
    reason: str
    records: int
    attempts: int
    duplicates: int
    body_bytes: int
    pruned_at: datetime | None


@dataclass(frozen=True, slots=True)
class DeliveryCount:
    """How many of a selection are of one resource, method and state."""

    resource: str
    method: str
    state: str
    deliveries: int
    records: int


_COLUMNS = [deliveries.c[field.name] for field in fields(DeliverySummary)]


def find_deliveries(
    database: Database,
    delivery_filter: DeliveryFilter,
    *,
    after: tuple[datetime, UUID] | None = None,
    newest_first: bool = False,
    page_size: int = _PAGE_SIZE,
) -> Iterator[DeliverySummary]:
    """Yield a selection's deliveries a page at a time, however many they are; raises StoreUnavailable.

    after: where to go on, as (received_at, id) of the last one seen.
    """
    place = tuple_(deliveries.c.received_at, deliveries.c.id)
    order = (deliveries.c.received_at, deliveries.c.id)
    while True:
        statement = select(*_COLUMNS).where(*where_clauses(delivery_filter))
        if after:
            statement = statement.where(place < after if newest_first else place > after)
        statement = statement.order_by(*(column.desc() for column in order) if newest_first else order).limit(
            page_size
        )
        with database.autocommit() as connection:
            summaries = [DeliverySummary(*row) for row in connection.execute(statement)]
        yield from summaries
        if len(summaries) < page_size:
            return
        after = (summaries[-1].received_at, summaries[-1].id)


def count_deliveries(database: Database, delivery_filter: DeliveryFilter) -> list[DeliveryCount]:
    """Count a selection by resource, method and state; raises StoreUnavailable."""
    columns = (deliveries.c.resource, deliveries.c.method, deliveries.c.state)
    statement = (
        select(*columns, func.count(), func.coalesce(func.sum(deliveries.c.records), 0))
        .where(*where_clauses(delivery_filter))
        .group_by(*columns)
        .order_by(*columns)
    )
    with database.autocommit() as connection:
        return [DeliveryCount(*row) for row in connection.execute(statement)]


def where_clauses(delivery_filter: DeliveryFilter) -> list[ColumnElement[bool]]:
    """Return what a selection means to the database."""
    clauses: list[ColumnElement[bool]] = []
    if delivery_filter.ids:
        clauses.append(deliveries.c.id.in_(delivery_filter.ids))
    clauses += [
        deliveries.c[name] == getattr(delivery_filter, name)
        for name in (*_EXACT_FILTERS, "reason")
        if getattr(delivery_filter, name)
    ]
    for name in ("event", "resource"):
        if pattern := getattr(delivery_filter, name):
            clauses.append(deliveries.c[name].like(_to_like_pattern(pattern), escape="\\"))
    if delivery_filter.states:
        clauses.append(deliveries.c.state.in_(delivery_filter.states))
    if delivery_filter.sink:
        is_theirs = (sink_outcomes.c.delivery_id == deliveries.c.id) & (
            sink_outcomes.c.sink == delivery_filter.sink
        )
        clauses.append(exists().where(is_theirs))
    if delivery_filter.has_dead_records:
        is_its = (dead_records.c.delivery_id == deliveries.c.id) & (dead_records.c.discard_reason == "")
        if delivery_filter.record_reason:
            is_its &= dead_records.c.reason == delivery_filter.record_reason
        clauses.append(exists().where(is_its))
    if delivery_filter.since:
        clauses.append(deliveries.c.received_at >= delivery_filter.since)
    if delivery_filter.until:
        clauses.append(deliveries.c.received_at < delivery_filter.until)
    return clauses


def _to_like_pattern(pattern: str) -> str:
    """Spell a pattern with `*` as SQL's LIKE does."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")
