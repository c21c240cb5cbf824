"""Which deliveries a command is about: filters, and the way through them, oldest first or newest first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, select, tuple_

from app.database.engine import Store, one_statement, store_faults
from app.store.schema import dead_records, deliveries, outcomes

_PAGE = 500
_EXACT = ("sync_job_run_id", "integrated_account_id", "environment_id", "webhook_id", "sync_job_id", "method")


@dataclass(frozen=True, slots=True)
class Selection:
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
    def is_everything(self) -> bool:
        """Whether it leaves nothing out."""
        return not any(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Found:
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
class Group:
    """How many of a selection are of one resource, method and state."""

    resource: str
    method: str
    state: str
    deliveries: int
    records: int


_COLUMNS = [deliveries.c[field.name] for field in fields(Found)]


def find(
    store: Store,
    selection: Selection,
    *,
    after: tuple[datetime, UUID] | None = None,
    newest_first: bool = False,
    page: int = _PAGE,
) -> Iterator[Found]:
    """Yield a selection's deliveries a page at a time, however many they are; raises StoreUnavailable.

    after: where to go on, as (received_at, id) of the last one seen.
    """
    place = tuple_(deliveries.c.received_at, deliveries.c.id)
    order = (deliveries.c.received_at, deliveries.c.id)
    while True:
        statement = select(*_COLUMNS).where(*conditions(selection))
        if after:
            statement = statement.where(place < after if newest_first else place > after)
        statement = statement.order_by(*(each.desc() for each in order) if newest_first else order).limit(
            page
        )
        with store_faults(), one_statement(store) as connection:
            found = [Found(*row) for row in connection.execute(statement)]
        yield from found
        if len(found) < page:
            return
        after = (found[-1].received_at, found[-1].id)


def count(store: Store, selection: Selection) -> list[Group]:
    """Count a selection by resource, method and state; raises StoreUnavailable."""
    columns = (deliveries.c.resource, deliveries.c.method, deliveries.c.state)
    statement = (
        select(*columns, func.count(), func.coalesce(func.sum(deliveries.c.records), 0))
        .where(*conditions(selection))
        .group_by(*columns)
        .order_by(*columns)
    )
    with store_faults(), one_statement(store) as connection:
        return [Group(*row) for row in connection.execute(statement)]


def conditions(selection: Selection) -> list[ColumnElement[bool]]:
    """Return what a selection means to the database."""
    found: list[ColumnElement[bool]] = []
    if selection.ids:
        found.append(deliveries.c.id.in_(selection.ids))
    found += [
        deliveries.c[name] == getattr(selection, name)
        for name in (*_EXACT, "reason")
        if getattr(selection, name)
    ]
    for name in ("event", "resource"):
        if pattern := getattr(selection, name):
            found.append(deliveries.c[name].like(_like(pattern), escape="\\"))
    if selection.states:
        found.append(deliveries.c.state.in_(selection.states))
    if selection.sink:
        is_theirs = (outcomes.c.delivery_id == deliveries.c.id) & (outcomes.c.sink == selection.sink)
        found.append(exists().where(is_theirs))
    if selection.has_dead_records:
        is_its = (dead_records.c.delivery_id == deliveries.c.id) & (dead_records.c.discarded == "")
        if selection.record_reason:
            is_its &= dead_records.c.reason == selection.record_reason
        found.append(exists().where(is_its))
    if selection.since:
        found.append(deliveries.c.received_at >= selection.since)
    if selection.until:
        found.append(deliveries.c.received_at < selection.until)
    return found


def _like(pattern: str) -> str:
    """Spell a pattern with `*` as SQL's LIKE does."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")
