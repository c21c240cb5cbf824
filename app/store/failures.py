"""What did not reach its sinks: by its cause, and how it is given up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, bindparam, cast, func, literal, or_, select, tuple_, update

from app.database.engine import Store, one_statement, read_rows, store_faults
from app.store.delivery_filter import Selection, conditions
from app.store.schema import dead_records, deliveries

STRANDED = ("dead", "quarantined", "unrouted", "late")
_PAGE = 500
_DISCARDED = "discarded"
# Spelled out, so that both databases know it for the condition of an index.
_IS_STRANDED = deliveries.c.state.in_(
    bindparam("stranded", list(STRANDED), expanding=True, literal_execute=True)
)
# Those of a stranded delivery go with it.
_IS_RECORD_OF_ITS_OWN = deliveries.c.state.in_(("pending", "settled"))


@dataclass(frozen=True, slots=True)
class Stranding:
    """What is stranded for one cause, and when that began and last was; an example is the id of a delivery.

    state: of the deliveries; "record" where they are single dead records. sink: of records, "" where they
    could not be read. discarded: why they were given up, "" where they were not.
    """

    state: str
    reason: str
    sink: str
    resource: str
    discarded: str
    number: int
    oldest: datetime
    newest: datetime
    example: UUID


def find_strandings(store: Store, selection: Selection, *, with_discarded: bool = False) -> list[Stranding]:
    """Return what did not reach its sinks, by cause, the most first; raises StoreUnavailable.

    Records are left out where the selection names states: they have none.
    """
    found = _deliveries(store, selection, with_discarded=with_discarded)
    if not selection.states:
        found += _records(store, selection, with_discarded=with_discarded)
    return sorted(found, key=lambda each: -each.number)


def count_stranded(store: Store, selection: Selection) -> int:
    """Count the deliveries that `discard` would give up; raises StoreUnavailable."""
    statement = select(func.count()).select_from(deliveries).where(_IS_STRANDED, *conditions(selection))
    return int(read_rows(store, statement)[0][0])


def count_dead_records(store: Store, selection: Selection) -> int:
    """Count the dead records that `discard_records` would give up; raises StoreUnavailable."""
    statement = select(func.count()).select_from(_RECORDS).where(*_to_discard(selection))
    return int(read_rows(store, statement)[0][0])


def discard(store: Store, selection: Selection, *, why: str, now: datetime) -> Iterator[int]:
    """Give deliveries up, page by page; yields how many each page had. Raises StoreUnavailable.

    What a replay has taken up meanwhile is left to it.
    """
    place = tuple_(deliveries.c.received_at, deliveries.c.id)
    page = select(deliveries.c.received_at, deliveries.c.id).where(_IS_STRANDED, *conditions(selection))
    page = page.order_by(deliveries.c.received_at, deliveries.c.id).limit(_PAGE)
    rows = read_rows(store, page)
    while rows:
        ids = sorted(row.id for row in rows)
        change = update(deliveries).where(deliveries.c.id.in_(ids), _IS_STRANDED)
        settled_at = func.coalesce(deliveries.c.settled_at, now)
        yield _change(store, change.values(state=_DISCARDED, discarded=why, settled_at=settled_at))
        rows = read_rows(store, page.where(place > tuple(rows[-1])))


def discard_records(store: Store, selection: Selection, *, why: str) -> Iterator[int]:
    """Give dead records of settled deliveries up; yields how many each page had. Raises StoreUnavailable."""
    its = dead_records.c.delivery_id
    page = select(its).distinct().select_from(_RECORDS).where(*_to_discard(selection)).order_by(its)
    page = page.limit(_PAGE)
    rows = read_rows(store, page)
    while rows:
        of_these = its.in_([row[0] for row in rows])
        change = update(dead_records).where(of_these, *_as_record(selection), dead_records.c.discarded == "")
        yield _change(store, change.values(discarded=why))
        rows = read_rows(store, page.where(its > rows[-1][0]))


_RECORDS = dead_records.join(deliveries, deliveries.c.id == dead_records.c.delivery_id)


def _deliveries(store: Store, selection: Selection, *, with_discarded: bool) -> list[Stranding]:
    group = (deliveries.c.state, deliveries.c.reason, deliveries.c.resource, deliveries.c.discarded)
    statement = (
        select(*group, literal("").label("sink"), *_sums(deliveries.c.received_at, deliveries.c.id))
        .where(or_(_IS_STRANDED, deliveries.c.state == _DISCARDED) if with_discarded else _IS_STRANDED)
        .where(*conditions(selection))
        .group_by(*group)
    )
    return [_stranding(row) for row in read_rows(store, statement)]


def _records(store: Store, selection: Selection, *, with_discarded: bool) -> list[Stranding]:
    group = (dead_records.c.reason, dead_records.c.sink, deliveries.c.resource, dead_records.c.discarded)
    sums = _sums(dead_records.c.died_at, dead_records.c.delivery_id)
    statement = (
        select(*group, literal("record").label("state"), *sums)
        .select_from(_RECORDS)
        .where(_IS_RECORD_OF_ITS_OWN, *_of_records(selection))
        .group_by(*group)
    )
    if not with_discarded:
        statement = statement.where(dead_records.c.discarded == "")
    return [_stranding(row) for row in read_rows(store, statement)]


def _sums(at: ColumnElement[datetime], its: ColumnElement[UUID]) -> Sequence[ColumnElement[Any]]:
    return (
        func.count().label("number"),
        func.min(at).label("oldest"),
        func.max(at).label("newest"),
        # Ids begin with their event's time: the newest. As text, since PostgreSQL has no greatest uuid.
        func.max(cast(its, Text)).label("example"),
    )


def _stranding(row: Any) -> Stranding:
    return Stranding(**{**row._asdict(), "example": UUID(row.example)})


def _to_discard(selection: Selection) -> list[ColumnElement[bool]]:
    return [*_of_records(selection), deliveries.c.state == "settled", dead_records.c.discarded == ""]


def _of_records(selection: Selection) -> list[ColumnElement[bool]]:
    """Return what a selection means for dead records: its reason is theirs."""
    return [*conditions(replace(selection, reason="")), *_as_record(selection)]


def _as_record(selection: Selection) -> list[ColumnElement[bool]]:
    return [dead_records.c.reason == selection.reason] if selection.reason else []


def _change(store: Store, statement: Any) -> int:
    with store_faults(), one_statement(store) as connection:
        return int(connection.execute(statement).rowcount)
