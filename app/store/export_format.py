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
class Exported:
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
class Kept:
    """What is read of a line: which delivery it was, when it came (aware UTC), and its bytes."""

    id: UUID
    received_at: datetime
    body: bytes


def write_line(delivery: Exported) -> bytes:
    """Return a delivery as one line; a body that is no UTF-8 stands in `body_base64` instead of `body`."""
    told: dict[str, Any] = {"format": FORMAT}
    told |= {name: getattr(delivery, name) for name in delivery.__slots__ if name != "body"}
    try:
        told["body"] = delivery.body.decode()
    except UnicodeDecodeError:
        told["body_base64"] = base64.b64encode(delivery.body).decode()
    return json.dumps(told, ensure_ascii=False, default=_text).encode() + b"\n"


def read_line(line: bytes) -> Kept | None:
    """Return what a line holds; None where no export of ours wrote it.

    Raises ValueError with what is wrong with one of ours.
    """
    if _MARK not in line:
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not str(found.get("format")).startswith("rapidbridge.delivery/"):
        return None
    if found["format"] != FORMAT:
        raise ValueError(f"written in a format that this release does not know: {found['format'][:40]}")
    return Kept(_id(found.get("id")), _time(found.get("received_at")), _body(found))


def _text(value: datetime | UUID) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _id(told: object) -> UUID:
    try:
        return UUID(str(told))
    except ValueError as error:
        raise ValueError("its id is no UUID") from error


def _time(told: object) -> datetime:
    try:
        time = datetime.fromisoformat(str(told))
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("its received_at is no time") from error


def _body(found: Mapping[str, Any]) -> bytes:
    text, encoded = found.get("body"), found.get("body_base64")
    try:
        if isinstance(text, str):
            return text.encode()
        if isinstance(encoded, str):
            return base64.b64decode(encoded, validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise ValueError("its body is damaged") from error
    raise ValueError("it holds no body")
