"""Parser of an event's envelope, which skips the records.

The web process reads every body with it, so its cost is part of each answer.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import asdict

from app.errors import UnreadableDelivery
from app.truto.coerce import as_object, as_text, as_time
from app.truto.id_places import find_account, find_id
from app.truto.json_reader import MAX_READ_BYTES, JsonReader
from app.truto.json_scanner import (
    JsonSpan,
    NotJson,
    Pause,
    is_blank,
    no_pause,
    scan_document,
    scan_object,
)

RECORD_EVENT = "sync_job_run:record"
RECORD_ERROR_EVENT = "sync_job_run:record_error"
# Other events of `record:`, such as `record:meta`, are no changes of a record.
_RECORD_CHANGE_EVENTS = ("record:created", "record:updated", "record:deleted")
# Truto's documentation and examples spell the member in three ways.
EVENT_NAME_MEMBERS = ("event", "event_type", "eventType")
# PostgreSQL limits the bytes of an index row, and logs and pages show the names. Ids have 36 characters.
MAX_NAME_CHARS = 200
_SHORT_FIELDS = ("event", "sync_job_run_id", "integrated_account_id", "resource", "method")
_MAX_OTHER_CHARS = 4000


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


# The members that identify an event and its payload. msgspec skips the others without building them, which
# makes it three times as fast as pydantic.
EVENT_MEMBERS = ("id", *EVENT_NAME_MEMBERS, "created_at", "webhook_id", "environment_id")
_PAYLOAD_MEMBERS = (
    "id",
    "sync_job_run_id",
    "sync_job_id",
    "integrated_account_id",
    "resource",
    "method",
    "meta",
    "sync_job_run",
    "sync_job",
    "integrated_account",
    "args",
)
_PAYLOAD_NAMES = frozenset(_PAYLOAD_MEMBERS)


def _define_struct(name: str, members: Iterable[str], value_type: Any, missing: Any) -> type[msgspec.Struct]:
    return msgspec.defstruct(name, [(member, value_type, missing) for member in members])


# Bodies up to this size are decoded at once. Of larger ones, the members are located first, and no more than
# this is parsed: it bounds the time and the memory.
_MAX_PARSED_BYTES = 256 * 1024
_Payload = _define_struct("Payload", _PAYLOAD_MEMBERS, Any, None)
_EVENT_DECODER = msgspec.json.Decoder(
    msgspec.defstruct(
        "Event", [*((name, Any, None) for name in EVENT_MEMBERS), ("payload", _Payload | None, None)]
    )
)
_RAW_EVENT_DECODER = msgspec.json.Decoder(
    _define_struct("RawEvent", (*EVENT_MEMBERS, "payload"), msgspec.Raw, msgspec.Raw())
)
_RAW_PAYLOAD_DECODER = msgspec.json.Decoder(
    _define_struct("RawPayload", _PAYLOAD_MEMBERS, msgspec.Raw, msgspec.Raw())
)


def has_records(event: str) -> bool:
    """Whether events of this name contain records."""
    return event == RECORD_EVENT or event in _RECORD_CHANGE_EVENTS


def read_envelope(body: bytes, pause: Pause = no_pause) -> Envelope:
    """Read the envelope of a body.

    A member of an unexpected type leaves its own field empty, and unparsable records are skipped. pause:
    called every few milliseconds while a large body is read. Raises UnreadableDelivery with the reason
    empty_body, not_json, not_object, no_event or name_too_long.
    Source: docs/protocol.md, "One delivery".
    """
    if len(body) <= _MAX_PARSED_BYTES:
        with suppress(msgspec.DecodeError, ValueError, RecursionError):
            event: Any = _EVENT_DECODER.decode(body)
            return _build_envelope(asdict(event), asdict(event.payload) if event.payload else {})
    try:
        event_members, payload_members = _locate_members(body, pause)
    except (msgspec.DecodeError, ValueError, RecursionError):
        event_members, payload_members = _scan_members(body, pause)
    reader = JsonReader(_MAX_PARSED_BYTES, pause)
    return _build_envelope(
        reader.read_members(event_members), reader.read_members(payload_members, _PAYLOAD_NAMES)
    )


def read_payload(body: bytes, max_bytes: int = MAX_READ_BYTES, pause: Pause = no_pause) -> dict[str, Any]:
    """Return the payload of an event without the parts that cannot be read; {} if it is no object.

    max_bytes: of the payload to parse; see `JsonReader`.
    """
    try:
        payload = scan_object(scan_document(body, pause), frozenset({"payload"}), pause).get("payload")
    except NotJson:
        return {}
    return as_object(JsonReader(max_bytes, pause).read_value(payload))


def decode_body(body: bytes) -> str:
    """Return a body as text, with U+FFFD for invalid UTF-8: one bad record must not lose the others."""
    return body.decode("utf-8-sig", errors="replace")


def _locate_members(body: bytes, pause: Pause) -> tuple[Mapping[str, JsonSpan], Mapping[str, JsonSpan]]:
    """Return the needed members of a sound body, and those of its payload."""
    event = asdict(_RAW_EVENT_DECODER.decode(body))
    pause()
    payload = event.pop("payload") or b"{}"
    try:
        return _to_spans(event), _to_spans(asdict(_RAW_PAYLOAD_DECODER.decode(payload)))
    except msgspec.ValidationError:  # no object
        return _to_spans(event), {}


def _scan_members(body: bytes, pause: Pause) -> tuple[Mapping[str, JsonSpan], Mapping[str, JsonSpan]]:
    """Return the same members of a body that the fast decoder cannot parse."""
    if is_blank(body):
        raise UnreadableDelivery("empty_body", "the body is empty")
    try:
        span = scan_document(body, pause)
        if not span.is_object:
            if span.size <= _MAX_PARSED_BYTES:
                json.loads(span.raw)
            elif not body.startswith((b"[", b'"'), span.start):
                raise NotJson("a number or a word of this length")
            raise UnreadableDelivery("not_object", "the body is JSON, but not an object")
        members = scan_object(span, frozenset({*EVENT_MEMBERS, "payload"}), pause)
        payload = members.pop("payload", None)
        if payload is None or not payload.is_object:
            return members, {}
        return members, scan_object(payload, _PAYLOAD_NAMES, pause)
    except (ValueError, RecursionError) as error:
        raise UnreadableDelivery("not_json", "the body is not JSON") from error


def _to_spans(members: Mapping[str, Any]) -> dict[str, JsonSpan]:
    raws = {name: bytes(raw) for name, raw in members.items()}
    return {name: JsonSpan(raw, 0, len(raw)) for name, raw in raws.items() if raw}


def _build_envelope(event: Mapping[str, Any], payload: Mapping[str, Any]) -> Envelope:
    name = _check_length("event", _find_event_name(event))
    if not name:
        raise UnreadableDelivery("no_event", "the body has no event name")
    # Checked first: the search for the account compares its parts.
    resource = _check_length("resource", find_id(payload, "resource"))
    ids = {
        "event_id": as_text(event.get("id")),
        "webhook_id": as_text(event.get("webhook_id")),
        "environment_id": as_text(event.get("environment_id")),
        "sync_job_run_id": _find_run_id(name, payload),
        "sync_job_id": find_id(payload, "sync_job_id", "sync_job"),
        "integrated_account_id": _find_account_id(name, payload, resource),
        "method": find_id(payload, "method"),
    }
    # Together: nearly no event has one of this length.
    if max(map(len, ids.values())) > MAX_NAME_CHARS:
        for field, text in ids.items():
            _check_length(field, text)
    return Envelope(event=name, created_at=as_time(event.get("created_at")), resource=resource, **ids)


def _check_length(field: str, text: str) -> str:
    max_chars = MAX_NAME_CHARS if field in _SHORT_FIELDS else _MAX_OTHER_CHARS
    if len(text) > max_chars:
        raise UnreadableDelivery("name_too_long", f"{field} has more than {max_chars} characters")
    return text


def _find_account_id(event: str, payload: Mapping[str, Any], resource: str) -> str:
    account = find_account(payload, resource)
    return account or (as_text(payload.get("id")) if event.startswith("integrated_account:") else "")


def _find_event_name(event: Mapping[str, Any]) -> str:
    values = (event.get(member) for member in EVENT_NAME_MEMBERS)
    return next((as_text(value) for value in values if isinstance(value, str) and value.strip()), "")


def _find_run_id(event: str, payload: Mapping[str, Any]) -> str:
    run_id = find_id(payload, "sync_job_run_id", "sync_job_run")
    is_lifecycle = event.startswith("sync_job_run:") and event not in (RECORD_EVENT, RECORD_ERROR_EVENT)
    return run_id or (as_text(payload.get("id")) if is_lifecycle else "")
