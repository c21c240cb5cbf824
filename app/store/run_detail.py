"""The events, record errors and dead records of one run.

Every function reads a bounded number of rows, so that a run of any size is shown in time, and raises
StoreUnavailable.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Subquery, Text, case, cast, func, select

from app.database.engine import Database
from app.encryption import ENCRYPTED_TEXT, Keyring
from app.store.bounded_count import BoundedCount
from app.store.delivery_filter import DeliverySummary
from app.store.encrypted_columns import build_label_context
from app.store.schema import dead_records, deliveries, record_errors
from app.truto.events import RECORD_ERROR_EVENT, RECORD_EVENT

# The first and the last deliveries of a run contain its start and its end.
_WINDOW_DELIVERIES = 500
_MAX_EVENTS = 50
_MAX_RECORDS = 10_000
_MAX_GROUPS = 50
# The delivery of the example has the whole message.
_MAX_MESSAGE_CHARS = 300
_Group = TypeVar("_Group", "RecordErrorGroup", "DeadRecordGroup")


@dataclass(frozen=True, slots=True)
class RunEvent:
    """A delivery of a run that carries no records. created_at: Truto's own time of the event."""

    delivery_id: UUID
    event: str
    received_at: datetime
    created_at: datetime | None
    state: str


@dataclass(frozen=True, slots=True)
class RunEvents:
    """The events of a run, oldest first, and the times of its first and last page.

    is_complete: False if some events between the first and the last ones were not read.
    """

    events: Sequence[RunEvent]
    first_page_at: datetime | None
    last_page_at: datetime | None
    is_complete: bool


@dataclass(frozen=True, slots=True)
class RecordErrorGroup:
    """Record errors of a run with the same resource, method, status and message.

    message: cut. example: the id of a delivery.
    """

    resource: str
    method: str
    remote_status: int | None
    message: str
    number: int
    example: UUID


@dataclass(frozen=True, slots=True)
class DeadRecordGroup:
    """Dead records of a run with the same sink and reason.

    sink: "" if they are unreadable. discarded: the number that an operator discarded. example: the id of a
    delivery.
    """

    sink: str
    reason: str
    number: int
    discarded: int
    example: UUID


@dataclass(frozen=True, slots=True)
class CauseGroups(Generic[_Group]):
    """The largest groups of a run's failures.

    number: of all failures. If it is not exact, the groups count some of them only.
    """

    groups: Sequence[_Group]
    number: BoundedCount

    @property
    def number_in_other_groups(self) -> int:
        """The number of failures in smaller groups, which are left out."""
        return self.number.as_number - sum(group.number for group in self.groups)


def count_run_deliveries(database: Database, run_id: str, *, limit: int) -> int:
    """Count the deliveries of a run; `limit` stands for that many or more."""
    page = select(deliveries.c.received_at).where(deliveries.c.sync_job_run_id == run_id).limit(limit)
    return int(database.read(select(func.count()).select_from(page.subquery()))[0][0])


def read_run_events(database: Database, run_id: str, *, window: int = _WINDOW_DELIVERIES) -> RunEvents:
    """Return the lifecycle events among the first and the last deliveries of a run."""
    received_at = deliveries.c.received_at
    first = _read_deliveries(database, run_id, received_at, limit=window)
    last = _read_deliveries(database, run_id, received_at.desc(), limit=window)
    by_id = {row.id: row for row in (*first, *last)}
    rows = sorted(by_id.values(), key=lambda row: (row.received_at, row.id))
    # Windows that overlap contain the whole run.
    is_complete = len(rows) < 2 * window
    page_times = [row.received_at for row in rows if row.event == RECORD_EVENT]
    events = [RunEvent(*row) for row in rows if row.event not in (RECORD_EVENT, RECORD_ERROR_EVENT)]
    if len(events) > _MAX_EVENTS:
        events, is_complete = [*events[: _MAX_EVENTS // 2], *events[-_MAX_EVENTS // 2 :]], False
    return RunEvents(
        events, page_times[0] if page_times else None, page_times[-1] if page_times else None, is_complete
    )


def list_newest_deliveries(database: Database, run_id: str, *, limit: int) -> list[DeliverySummary]:
    """Return the newest deliveries of a run, newest first."""
    columns = [deliveries.c[field.name] for field in fields(DeliverySummary)]
    # Not by id as well: PostgreSQL may then prefer the index on all deliveries, and read most of them.
    order = deliveries.c.received_at.desc()
    statement = select(*columns).where(deliveries.c.sync_job_run_id == run_id).order_by(order).limit(limit)
    return [DeliverySummary(*row) for row in database.read(statement)]


def group_record_errors(
    database: Database, run_id: str, *, limit: int = _MAX_RECORDS
) -> CauseGroups[RecordErrorGroup]:
    """Return the record errors of a run by message, largest group first. limit: of the errors to read."""
    table = record_errors.c
    # A part of an encrypted message cannot be decrypted.
    is_encrypted = table.message.startswith(ENCRYPTED_TEXT, autoescape=True)
    cut = case((is_encrypted, table.message), else_=func.substr(table.message, 1, _MAX_MESSAGE_CHARS))
    message = cut.label("message")
    columns = (table.resource, table.method, table.remote_status, message)
    read = (
        select(*columns, table.delivery_id).where(table.sync_job_run_id == run_id).limit(limit + 1).subquery()
    )
    cause = (read.c.resource, read.c.method, read.c.remote_status, read.c.message)
    rows = database.read(_group(read, cause))
    groups: dict[tuple[str, str, int | None, str], RecordErrorGroup] = {}
    for row in rows:
        text = _decrypt_message(database.keyring, row.message)
        group = (row.resource, row.method, row.remote_status, text)
        # While keys are rotated, the database has one message in several forms.
        number = row.number + (groups[group].number if group in groups else 0)
        groups[group] = RecordErrorGroup(*group, number, UUID(row.example))
    return _build_groups(list(groups.values()), rows, limit=limit)


def _decrypt_message(keyring: Keyring, stored: str) -> str:
    """Return the start of a record error's message; a note if it is damaged."""
    try:
        message = keyring.decrypt_text(stored, build_label_context(record_errors, "message"))
    except ValueError:
        return "(damaged in the database)"
    return message[:_MAX_MESSAGE_CHARS]


def group_dead_records(
    database: Database, run_id: str, *, limit: int = _MAX_RECORDS
) -> CauseGroups[DeadRecordGroup]:
    """Return the dead records of a run by sink and reason, largest group first.

    limit: of the newest deliveries to search, and of the dead records to read.
    """
    newest = (
        select(deliveries.c.id)
        .where(deliveries.c.sync_job_run_id == run_id)
        .order_by(deliveries.c.received_at.desc())
        .limit(limit)
        .subquery()
    )
    table = dead_records.c
    read = (
        select(table.sink, table.reason, table.discard_reason, table.delivery_id)
        .join(newest, newest.c.id == table.delivery_id)
        .limit(limit + 1)
        .subquery()
    )
    cause = (read.c.sink, read.c.reason)
    discarded = func.count(func.nullif(read.c.discard_reason, "")).label("discarded")
    rows = database.read(_group(read, cause).add_columns(discarded))
    groups = [
        DeadRecordGroup(row.sink, row.reason, row.number, row.discarded, UUID(row.example)) for row in rows
    ]
    return _build_groups(groups, rows, limit=limit)


def _read_deliveries(
    database: Database, run_id: str, order: ColumnElement[datetime], *, limit: int
) -> Sequence[Any]:
    columns = [deliveries.c[name] for name in ("id", "event", "received_at", "created_at", "state")]
    statement = select(*columns).where(deliveries.c.sync_job_run_id == run_id).order_by(order).limit(limit)
    return database.read(statement)


def _group(read: Subquery, cause: Sequence[ColumnElement[Any]]) -> Select[Any]:
    """Count the rows of a query by cause. total: of all causes, also of those beyond the limit."""
    number = func.count()
    return (
        select(
            *cause,
            number.label("number"),
            # PostgreSQL has no maximum of a UUID.
            func.max(cast(read.c.delivery_id, Text)).label("example"),
            func.sum(number).over().label("total"),
        )
        .group_by(*cause)
        .order_by(number.desc(), *cause)
        .limit(_MAX_GROUPS)
    )


def _build_groups(groups: Sequence[_Group], rows: Sequence[Any], *, limit: int) -> CauseGroups[_Group]:
    return CauseGroups(groups, BoundedCount.build(rows[0].total if rows else 0, limit))
