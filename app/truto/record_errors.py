"""Bytes to record errors: what Truto could not fetch from a customer's account."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.truto.coerce import as_object, as_text, read_span
from app.truto.events import decode
from app.truto.json_scanner import NotJson, Span, items, members, whole

_STATUS_NAMES = ("status", "status_code", "statusCode", "remote_status", "code")
_MESSAGE_NAMES = ("message", "error_message", "remote_error", "error", "detail")
_MOST_NESTING = 3


@dataclass(frozen=True, slots=True)
class RecordError:
    """One error. remote_status: an HTTP status, None where none is named. raw: its JSON as it came."""

    ordinal: int
    resource: str
    method: str
    remote_status: int | None
    message: str
    raw: str


def read_record_errors(body: bytes) -> Sequence[RecordError]:
    """Read a `sync_job_run:record_error`, single or batched in `errors`; never raises for odd shapes.

    Each error has a resource and method of its own or else the payload's; the rest is free-form.
    """
    try:
        payload = members(whole(decode(body))).get("payload")
        if payload is None:
            return ()
        outer = members(payload) if payload.is_object else {}
    except NotJson:
        return ()
    shared = {name: as_text(read_span(outer.get(name))) for name in ("resource", "method")}
    return [_error(ordinal, span, shared) for ordinal, span in enumerate(_spans(payload, outer))]


def _spans(payload: Span, outer: Mapping[str, Span]) -> Sequence[Span]:
    errors = outer.get("errors")
    return [payload] if errors is None or errors.raw == "null" else items(errors)


def _error(ordinal: int, span: Span, shared: Mapping[str, str]) -> RecordError:
    value = read_span(span)
    said = as_object(value)
    return RecordError(
        ordinal=ordinal,
        resource=as_text(said.get("resource")) or shared["resource"],
        method=as_text(said.get("method")) or shared["method"],
        remote_status=_find_status(said, _MOST_NESTING),
        message=as_text(value) or _find_message(said, _MOST_NESTING),
        raw=span.raw,
    )


def _find_status(said: Mapping[str, Any], nesting: int) -> int | None:
    for name in _STATUS_NAMES:
        text = as_text(said.get(name))
        if len(text) == 3 and text.isascii() and text.isdigit():
            return int(text)
    return next(filter(None, (_find_status(inner, nesting - 1) for inner in _inner(said, nesting))), None)


def _find_message(said: Mapping[str, Any], nesting: int) -> str:
    for name in _MESSAGE_NAMES:
        text = as_text(said.get(name))
        if text:
            return text
    return next(filter(None, (_find_message(inner, nesting - 1) for inner in _inner(said, nesting))), "")


def _inner(said: Mapping[str, Any], nesting: int) -> list[dict[str, Any]]:
    names = ("error", "remote_error", "remote", "response", "meta", "payload")
    return (
        [as_object(said.get(name)) for name in names if isinstance(said.get(name), dict)] if nesting else []
    )
