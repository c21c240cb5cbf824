"""Parser of an event's envelope, which skips the records.

The web process reads every body with it, so its cost is part of each answer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import asdict

from app.errors import UnreadableDelivery
from app.truto.coerce import as_text, as_time, read_members, read_span
from app.truto.id_places import find_account, find_id
from app.truto.json_scanner import scan_document, scan_object

RECORD_EVENT = "sync_job_run:record"
RECORD_ERROR_EVENT = "sync_job_run:record_error"
# Other events of `record:`, such as `record:meta`, are no changes of a record.
_RECORD_CHANGE_EVENTS = ("record:created", "record:updated", "record:deleted")
# Truto's documentation and examples spell the member in three ways.
_EVENT_NAME_MEMBERS = ("event", "event_type", "eventType")
# These are columns of indexes, and PostgreSQL limits the bytes of an index row. Ids have 36 characters.
_INDEXED_FIELDS = ("sync_job_run_id", "integrated_account_id", "resource", "method")
MAX_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class Envelope:
    """The ids and names in an event; "" or None if the event lacks them. created_at: aware UTC."""

    event_id: str = ""
    event: str = ""
    created_at: datetime | None = None
    webhook_id: str = ""
    environment_id: str = ""
    sync_job_run_id: str = ""
    sync_job_id: str = ""
    integrated_account_id: str = ""
    resource: str = ""
    method: str = ""


class _Payload(msgspec.Struct):
    """The members of a payload that identify it. Its records are skipped."""

    id: Any = None
    sync_job_run_id: Any = None
    sync_job_id: Any = None
    integrated_account_id: Any = None
    resource: Any = None
    method: Any = None
    meta: Any = None
    sync_job_run: Any = None
    sync_job: Any = None
    integrated_account: Any = None
    args: Any = None


class _Event(msgspec.Struct):
    id: Any = None
    event: Any = None
    event_type: Any = None
    eventType: Any = None  # noqa: N815  # Truto's spelling
    created_at: Any = None
    webhook_id: Any = None
    environment_id: Any = None
    payload: _Payload | None = None


_EVENT_MEMBERS = frozenset(_Event.__struct_fields__)
_PAYLOAD_MEMBERS = frozenset(_Payload.__struct_fields__)
# msgspec skips unknown members without building them, which makes it three times as fast as pydantic.
_EVENT_DECODER = msgspec.json.Decoder(_Event)


def has_records(event: str) -> bool:
    """Whether events of this name contain records."""
    return event == RECORD_EVENT or event in _RECORD_CHANGE_EVENTS


def read_envelope(body: bytes) -> Envelope:
    """Read the envelope of a body.

    A member of an unexpected type leaves its own field empty, and unparsable records are skipped. Raises
    UnreadableDelivery with the reason empty_body, not_json, not_object, no_event or name_too_long.
    Source: docs/protocol.md, "One delivery".
    """
    try:
        event = _EVENT_DECODER.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _build_envelope(*_scan_event(body))
    return _build_envelope(asdict(event), asdict(event.payload) if event.payload else {})


def decode_body(body: bytes) -> str:
    """Return a body as text, with U+FFFD for invalid UTF-8: one bad record must not lose the others."""
    return body.decode("utf-8-sig", errors="replace")


def _scan_event(body: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Read only the needed members of a body that the fast decoder cannot parse."""
    text = decode_body(body)
    if not text.strip():
        raise UnreadableDelivery("empty_body", "the body is empty")
    try:
        span = scan_document(text)
        if not span.is_object:
            json.loads(span.raw)
            raise UnreadableDelivery("not_object", "the body is JSON, but not an object")
        event_members = scan_object(span)
        payload = read_members(event_members.get("payload"), _PAYLOAD_MEMBERS)
    except (ValueError, RecursionError) as error:
        raise UnreadableDelivery("not_json", "the body is not JSON") from error
    event = {
        name: read_span(value)
        for name, value in event_members.items()
        if name in _EVENT_MEMBERS - {"payload"}
    }
    return event, payload


def _build_envelope(event: Mapping[str, Any], payload: Mapping[str, Any]) -> Envelope:
    name = _find_event_name(event)
    if not name:
        raise UnreadableDelivery("no_event", "the body has no event name")
    resource = find_id(payload, "resource")
    envelope = Envelope(
        event_id=as_text(event.get("id")),
        event=name,
        created_at=as_time(event.get("created_at")),
        webhook_id=as_text(event.get("webhook_id")),
        environment_id=as_text(event.get("environment_id")),
        sync_job_run_id=_find_run_id(name, payload),
        sync_job_id=find_id(payload, "sync_job_id", "sync_job"),
        integrated_account_id=_find_account_id(name, payload, resource),
        resource=resource,
        method=find_id(payload, "method"),
    )
    for field in _INDEXED_FIELDS:
        if len(getattr(envelope, field)) > MAX_NAME_CHARS:
            raise UnreadableDelivery("name_too_long", f"{field} has more than {MAX_NAME_CHARS} characters")
    return envelope


def _find_account_id(event: str, payload: Mapping[str, Any], resource: str) -> str:
    account = find_account(payload, resource)
    return account or (as_text(payload.get("id")) if event.startswith("integrated_account:") else "")


def _find_event_name(event: Mapping[str, Any]) -> str:
    values = (event.get(member) for member in _EVENT_NAME_MEMBERS)
    return next((as_text(value) for value in values if isinstance(value, str) and value.strip()), "")


def _find_run_id(event: str, payload: Mapping[str, Any]) -> str:
    run_id = find_id(payload, "sync_job_run_id", "sync_job_run")
    is_lifecycle = event.startswith("sync_job_run:") and event not in (RECORD_EVENT, RECORD_ERROR_EVENT)
    return run_id or (as_text(payload.get("id")) if is_lifecycle else "")
