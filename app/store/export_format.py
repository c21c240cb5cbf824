"""A delivery as a line of JSON, to be kept elsewhere and taken in again. Pure."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

FORMAT = "rapidbridge.delivery/1"
# Looked for before a line is read: a body may take long to be parsed.
_MARK = b'"rapidbridge.delivery/'


@dataclass(frozen=True, slots=True)
class ExportedDelivery:
    """A delivery as an export holds it. body: the bytes that were signed."""

    id: UUID
    received_at: datetime
    event_id: str
    event: str
    webhook_id: str
    environment_id: str
    sync_job_id: str
    sync_job_run_id: str
    integrated_account_id: str
    resource: str
    method: str
    created_at: datetime | None
    state: str
    reason: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ImportedDelivery:
    """What is read of a line: which delivery it was, when it came (aware UTC), and its bytes."""

    id: UUID
    received_at: datetime
    body: bytes


def write_line(delivery: ExportedDelivery) -> bytes:
    """Return a delivery as one line; a body that is no UTF-8 stands in `body_base64` instead of `body`."""
    members: dict[str, Any] = {"format": FORMAT}
    members |= {name: getattr(delivery, name) for name in delivery.__slots__ if name != "body"}
    try:
        members["body"] = delivery.body.decode()
    except UnicodeDecodeError:
        members["body_base64"] = base64.b64encode(delivery.body).decode()
    return json.dumps(members, ensure_ascii=False, default=_format_value).encode() + b"\n"


def read_line(line: bytes) -> ImportedDelivery | None:
    """Return what a line holds; None where no export of ours wrote it.

    Raises ValueError with what is wrong with one of ours.
    """
    if _MARK not in line:
        return None
    try:
        members = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict) or not str(members.get("format")).startswith("rapidbridge.delivery/"):
        return None
    if members["format"] != FORMAT:
        raise ValueError(f"written in a format that this release does not know: {members['format'][:40]}")
    return ImportedDelivery(
        _parse_id(members.get("id")), _parse_time(members.get("received_at")), _parse_body(members)
    )


def _format_value(value: datetime | UUID) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _parse_id(value: object) -> UUID:
    try:
        return UUID(str(value))
    except ValueError as error:
        raise ValueError("its id is no UUID") from error


def _parse_time(value: object) -> datetime:
    try:
        time = datetime.fromisoformat(str(value))
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("its received_at is no time") from error


def _parse_body(members: Mapping[str, Any]) -> bytes:
    text, encoded = members.get("body"), members.get("body_base64")
    try:
        if isinstance(text, str):
            return text.encode()
        if isinstance(encoded, str):
            return base64.b64decode(encoded, validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise ValueError("its body is damaged") from error
    raise ValueError("it holds no body")
