"""Export and import format of deliveries: JSON lines that include the bodies."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import select

from app.database.engine import Database
from app.store.delivery_filter import DeliveryFilter, DeliverySummary, find_deliveries
from app.store.envelope_columns import ENVELOPE_COLUMNS, SOURCE_COLUMNS, to_envelope
from app.store.schema import deliveries
from app.store.stored_body import decode_body
from app.truto.coerce import as_text
from app.truto.events import Envelope
from app.truto.json_reader import JsonReader
from app.truto.json_scanner import NotJson, scan_document, scan_object

FORMAT = "rapidbridge.delivery/1"
# Checked before a line is parsed: parsing a large body takes long.
_MARK = b'"rapidbridge.delivery/'
_MISSING = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class ExportedDelivery:
    """One delivery of an export. body: the bytes that Truto signed."""

    id: UUID
    received_at: datetime
    envelope: Envelope
    state: str
    reason: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ImportedDelivery:
    """The members of a line that an import uses. received_at: aware UTC."""

    id: UUID
    received_at: datetime
    body: bytes


def write_line(delivery: ExportedDelivery) -> bytes:
    """Return a delivery as one line. A body that is not UTF-8 is in `body_base64` instead of `body`.

    The names of the members are a stored format: they stay when attributes are renamed.
    """
    envelope = delivery.envelope
    members: dict[str, Any] = {
        "format": FORMAT,
        "id": delivery.id,
        "received_at": delivery.received_at,
        "event_id": envelope.event_id,
        "event": envelope.event,
        "webhook_id": envelope.webhook_id,
        "environment_id": envelope.environment_id,
        "sync_job_id": envelope.sync_job_id,
        "sync_job_run_id": envelope.sync_job_run_id,
        "integrated_account_id": envelope.integrated_account_id,
        "resource": envelope.resource,
        "method": envelope.method,
        "created_at": envelope.created_at,
        "state": delivery.state,
        "reason": delivery.reason,
    }
    try:
        members["body"] = delivery.body.decode()
    except UnicodeDecodeError:
        members["body_base64"] = base64.b64encode(delivery.body).decode()
    return json.dumps(members, ensure_ascii=False, default=_format_value).encode() + b"\n"


def read_line(line: bytes) -> ImportedDelivery | None:
    """Return the delivery of a line; None if the line is not from an export.

    Raises ValueError with the reason if a line of an export is damaged.
    """
    if _MARK not in line:
        return None
    try:
        members = _LINE_DECODER.decode(line)
        name = _parse_text(members.format)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        if _has_format(line):
            raise ValueError("it is damaged") from error
        return None
    if not name.startswith("rapidbridge.delivery/"):
        return None
    if name != FORMAT:
        raise ValueError(f"this release does not know its format {name[:40]}")
    return ImportedDelivery(_parse_id(members.id), _parse_time(members.received_at), _parse_body(members))


def _has_format(line: bytes) -> bool:
    """Whether a line that is no valid JSON is from an export, and not a Truto event that quotes one."""
    try:
        members = scan_object(scan_document(line), frozenset({"format"}))
    except NotJson:
        return False
    return as_text(JsonReader().read_value(members.get("format"))).startswith("rapidbridge.delivery/")


class _Line(msgspec.Struct):
    """The needed members of a line, unparsed: a line may hold millions of objects."""

    format: msgspec.Raw = _MISSING
    id: msgspec.Raw = _MISSING
    received_at: msgspec.Raw = _MISSING
    body: msgspec.Raw = _MISSING
    body_base64: msgspec.Raw = _MISSING


_LINE_DECODER = msgspec.json.Decoder(_Line)


def _parse_text(value: msgspec.Raw) -> str:
    """Return a member that is a string; raises ValueError for any other."""
    try:
        return msgspec.json.decode(value, type=str)
    except msgspec.DecodeError as error:
        raise ValueError("it is no string") from error


def _format_value(value: datetime | UUID) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _parse_id(value: msgspec.Raw) -> UUID:
    try:
        return UUID(_parse_text(value))
    except ValueError as error:
        raise ValueError("its id is not a UUID") from error


def _parse_time(value: msgspec.Raw) -> datetime:
    try:
        time = datetime.fromisoformat(_parse_text(value))
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("its received_at is not a time") from error


def _parse_body(members: _Line) -> bytes:
    try:
        if bytes(members.body).startswith(b'"'):
            return _parse_text(members.body).encode()
        if bytes(members.body_base64).startswith(b'"'):
            return base64.b64decode(_parse_text(members.body_base64), validate=True)
    except ValueError as error:
        raise ValueError("its body is damaged") from error
    raise ValueError("it has no body")


# Limits of one query; a larger body is read alone.
_MAX_BYTES_PER_READ = 2 * 1024 * 1024
_MAX_DELIVERIES_PER_READ = 500
_COLUMNS = (
    deliveries.c.id,
    deliveries.c.received_at,
    *ENVELOPE_COLUMNS,
    *SOURCE_COLUMNS,
    deliveries.c.state,
    deliveries.c.reason,
    deliveries.c.body,
)


def read_stored_deliveries(database: Database, ids: Sequence[UUID]) -> list[ExportedDelivery]:
    """Return deliveries with their bodies as stored, oldest first; pruned ones are left out."""
    statement = (
        select(*_COLUMNS)
        .where(deliveries.c.id.in_(ids), deliveries.c.pruned_at.is_(None))
        .order_by(deliveries.c.received_at, deliveries.c.id)
    )
    return [
        ExportedDelivery(row.id, row.received_at, to_envelope(row._mapping), row.state, row.reason, row.body)
        for row in database.read(statement)
    ]


class DeliveryExport:
    """Reads the deliveries of a filter, oldest first; counts pruned and damaged bodies, which it skips."""

    def __init__(self, database: Database, delivery_filter: DeliveryFilter) -> None:
        self._database = database
        self._delivery_filter = delivery_filter
        self.pruned = 0
        self.damaged: list[UUID] = []

    def read_deliveries(self) -> Iterator[ExportedDelivery | None]:
        """Yield every delivery, or None for a skipped one; raises StoreUnavailable."""
        for group in _group_by_size(find_deliveries(self._database, self._delivery_filter)):
            stored = {
                delivery.id: delivery
                for delivery in read_stored_deliveries(self._database, [summary.id for summary in group])
            }
            # A delivery whose body was erased meanwhile is counted as pruned.
            for summary in group:
                yield self._decode(summary.id, stored.pop(summary.id, None))

    def read_lines(self) -> Iterator[bytes | None]:
        """Yield the line of every delivery, or None for a skipped one; raises StoreUnavailable."""
        for delivery in self.read_deliveries():
            yield write_line(delivery) if delivery else None

    def _decode(self, delivery_id: UUID, stored: ExportedDelivery | None) -> ExportedDelivery | None:
        if stored is None:
            self.pruned += 1
            return None
        try:
            return replace(stored, body=decode_body(self._database.keyring, delivery_id, stored.body))
        except ValueError:
            self.damaged.append(delivery_id)
            return None


def _group_by_size(summaries: Iterable[DeliverySummary]) -> Iterator[list[DeliverySummary]]:
    group, size = list[DeliverySummary](), 0
    for summary in summaries:
        size += summary.body_bytes
        if group and (size > _MAX_BYTES_PER_READ or len(group) == _MAX_DELIVERIES_PER_READ):
            yield group
            group, size = [], summary.body_bytes
        group.append(summary)
    if group:
        yield group
