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
    """What is read of a line: which delivery it was, when it came (aware UTC), and its bytes."""

    id: UUID
    received_at: datetime
    body: bytes


def write_line(told: Mapping[str, Any], body: bytes) -> bytes:
    """Return one delivery as a line, without its end.

    told: `id`, `received_at` and whatever else of its columns may help a reader; times are aware, ids UUIDs.
    body: the bytes that were signed; as base64 under another name where they are no UTF-8.
    """
    try:
        content = {"body": body.decode()}
    except UnicodeDecodeError:
        content = {"body_base64": base64.b64encode(body).decode()}
    return json.dumps({"format": FORMAT, **told, **content}, default=_plain, ensure_ascii=False).encode()


def read_line(line: bytes) -> Exported | None:
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
    return Exported(_id(found.get("id")), _time(found.get("received_at")), _body(found))


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _id(told: object) -> UUID:
    try:
        return UUID(str(told))
    except ValueError as error:
        raise ValueError("its id is no UUID") from error


def _time(told: object) -> datetime:
    try:
        time = datetime.fromisoformat(str(told))
    except ValueError as error:
        raise ValueError("its received_at is no time") from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


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
