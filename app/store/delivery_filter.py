"""Filters of deliveries: find and count the deliveries that match."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, select, tuple_

from app.database.engine import Database
from app.store.reasons import RECORD
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
class FailureCause:
    """The exact cause of failed deliveries or dead records; "" matches only "".

    state: of the deliveries; RECORD for dead records. sink: that rejected the records; "" if they are
    unreadable, and for deliveries.
    """

    state: str
    reason: str
    sink: str
    resource: str


CAUSE_FIELDS = tuple(field.name for field in fields(FailureCause))


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Conditions that a delivery must meet. Empty conditions match every delivery.

    resource, event: patterns with `*`. states: one of them. since, until: of received_at, `until` excluded.
    sink: has an outcome for the delivery. reason: of the state. has_dead_records: with dead records that were
    not discarded, only for `record_reason` if that is set. cause: of the delivery, or of one of its dead
    records. settled_until: reached its state at this time at the latest, so that a delivery that was replayed
    since does not match.
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
    cause: FailureCause | None = None
    settled_until: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it matches every delivery."""
        return not any(getattr(self, field.name) for field in fields(self))

    def to_values(self) -> dict[str, Any]:
        """Return the conditions that are set as JSON values, equal for equal filters."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _encode(value) for name, value in values.items() if value}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the filter of which `to_values` made these values."""
        decoded = dict(values)
        for name in _TIMES & decoded.keys():
            decoded[name] = datetime.fromisoformat(decoded[name])
        if "ids" in decoded:
            decoded["ids"] = tuple(map(UUID, decoded["ids"]))
        if "states" in decoded:
            decoded["states"] = tuple(decoded["states"])
        if "cause" in decoded:
            decoded["cause"] = FailureCause(**decoded["cause"])
        return cls(**decoded)


_TIMES = {"since", "until", "settled_until"}


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, FailureCause):
        return asdict(value)
    return sorted(map(str, value)) if isinstance(value, tuple | list) else value


@dataclass(frozen=True, slots=True)
class DeliverySummary:
    """The columns of a delivery that lists show."""

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
    """Numbers of deliveries and records with the same resource, method and state."""

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
    """Yield the deliveries that match, read in pages; raises StoreUnavailable.

    after: (received_at, id) of the delivery to continue after.
    """
    position = tuple_(deliveries.c.received_at, deliveries.c.id)
    order = (deliveries.c.received_at, deliveries.c.id)
    while True:
        statement = select(*_COLUMNS).where(*where_clauses(delivery_filter))
        if after:
            statement = statement.where(position < after if newest_first else position > after)
        statement = statement.order_by(*(column.desc() for column in order) if newest_first else order).limit(
            page_size
        )
        summaries = [DeliverySummary(*row) for row in database.read(statement)]
        yield from summaries
        if len(summaries) < page_size:
            return
        after = (summaries[-1].received_at, summaries[-1].id)


def count_deliveries(database: Database, delivery_filter: DeliveryFilter) -> list[DeliveryCount]:
    """Count the deliveries that match, by resource, method and state; raises StoreUnavailable."""
    columns = (deliveries.c.resource, deliveries.c.method, deliveries.c.state)
    statement = (
        select(*columns, func.count(), func.coalesce(func.sum(deliveries.c.records), 0))
        .where(*where_clauses(delivery_filter))
        .group_by(*columns)
        .order_by(*columns)
    )
    return [DeliveryCount(*row) for row in database.read(statement)]


def where_clauses(delivery_filter: DeliveryFilter, columns: Any = deliveries.c) -> list[ColumnElement[bool]]:
    """Return a filter as SQL conditions. columns: of the deliveries, or of a query that selects them."""
    clauses: list[ColumnElement[bool]] = []
    if delivery_filter.ids:
        clauses.append(columns.id.in_(delivery_filter.ids))
    clauses += [
        columns[name] == getattr(delivery_filter, name)
        for name in (*_EXACT_FILTERS, "reason")
        if getattr(delivery_filter, name)
    ]
    for name in ("event", "resource"):
        if pattern := getattr(delivery_filter, name):
            clauses.append(columns[name].like(_to_like_pattern(pattern), escape="\\"))
    if delivery_filter.states:
        clauses.append(columns.state.in_(delivery_filter.states))
    if delivery_filter.sink:
        is_of_sink = (sink_outcomes.c.delivery_id == columns.id) & (
            sink_outcomes.c.sink == delivery_filter.sink
        )
        clauses.append(exists().where(is_of_sink))
    if delivery_filter.has_dead_records:
        is_dead_record = (dead_records.c.delivery_id == columns.id) & (dead_records.c.discard_reason == "")
        if delivery_filter.record_reason:
            is_dead_record &= dead_records.c.reason == delivery_filter.record_reason
        clauses.append(exists().where(is_dead_record))
    if delivery_filter.since:
        clauses.append(columns.received_at >= delivery_filter.since)
    if delivery_filter.until:
        clauses.append(columns.received_at < delivery_filter.until)
    if delivery_filter.settled_until:
        settled_at = func.coalesce(columns.settled_at, columns.received_at)
        clauses.append(settled_at <= delivery_filter.settled_until)
    if delivery_filter.cause:
        clauses += _cause_clauses(delivery_filter.cause, columns)
    return clauses


def record_cause_clauses(cause: FailureCause) -> list[ColumnElement[bool]]:
    """Return a cause as conditions for dead records."""
    return [dead_records.c[name] == getattr(cause, name) for name in ("reason", "sink", "resource")]


def _cause_clauses(cause: FailureCause, columns: Any) -> list[ColumnElement[bool]]:
    if cause.state == RECORD:
        is_of_cause = (*record_cause_clauses(cause), dead_records.c.discard_reason == "")
        return [exists().where(dead_records.c.delivery_id == columns.id, *is_of_cause)]
    return [columns[name] == getattr(cause, name) for name in ("state", "reason", "resource")]


def matches_pattern(pattern: str, text: str) -> bool:
    """Whether a whole text matches a pattern with `*`, each for any number of characters."""
    # Not a regular expression: with many `*` it would backtrack for hours.
    first, *parts = pattern.split("*")
    if not parts:
        return text == pattern
    *middle, last = parts
    position, end = len(first), len(text) - len(last)
    if position > end or not (text.startswith(first) and text.endswith(last)):
        return False
    for part in middle:
        position = text.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return True


def _to_like_pattern(pattern: str) -> str:
    """Return a pattern with `*` in the syntax of LIKE."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")
