"""Parser of record errors: the failures that Truto reports while fetching records."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from app.truto.coerce import as_object, as_text
from app.truto.events import MAX_NAME_CHARS
from app.truto.json_reader import JsonReader
from app.truto.json_scanner import JsonSpan, NotJson, count_items, scan_document, scan_items, scan_object

_SHARED_MEMBERS = frozenset({"errors", "resource", "method"})
_STATUS_MEMBERS = ("status", "status_code", "statusCode", "remote_status", "code")
_MESSAGE_MEMBERS = ("message", "error_message", "remote_error", "error", "detail")
_MAX_NESTING = 3
# Lists and pages show the message; `raw` has all of it.
_MAX_MESSAGE_CHARS = 4000


@dataclass(frozen=True, slots=True)
class RecordError:
    """One error. remote_status: the HTTP status it names, or None. raw: its JSON, unchanged."""

    ordinal: int
    resource: str
    method: str
    remote_status: int | None
    message: str
    raw: str


def read_record_errors(body: bytes, *, first_ordinal: int = 0) -> Iterator[RecordError]:
    """Read the errors of a `sync_job_run:record_error` event: one, or a batch in `errors`. Never raises.

    first_ordinal: of the first error to read. Errors are read one by one, because there may be millions. The
    resource and method are the error's own, or else the payload's. All other members are free-form.
    """
    try:
        payload = scan_object(scan_document(body), frozenset({"payload"})).get("payload")
        if payload is None:
            return
        outer = scan_object(payload, _SHARED_MEMBERS) if payload.is_object else {}
    except NotJson:
        return
    shared = {
        name: as_text(JsonReader().read_value(outer.get(name)))[:MAX_NAME_CHARS]
        for name in ("resource", "method")
    }
    for ordinal, span in enumerate(_find_error_spans(payload, outer, first_ordinal), first_ordinal):
        yield _build_error(ordinal, span, shared)


def _find_error_spans(
    payload: JsonSpan, outer: Mapping[str, JsonSpan], first_ordinal: int
) -> Iterator[JsonSpan]:
    errors = outer.get("errors")
    if errors is None or errors.is_null:
        return islice([payload], first_ordinal, None)
    try:
        count_items(errors)
    except NotJson:
        return islice([errors], first_ordinal, None)
    return scan_items(errors, first=first_ordinal)


def _build_error(ordinal: int, span: JsonSpan, shared: Mapping[str, str]) -> RecordError:
    value = JsonReader().read_value(span)
    error = as_object(value)
    return RecordError(
        ordinal=ordinal,
        resource=as_text(error.get("resource"))[:MAX_NAME_CHARS] or shared["resource"],
        method=as_text(error.get("method"))[:MAX_NAME_CHARS] or shared["method"],
        remote_status=_find_status(error, _MAX_NESTING),
        message=(as_text(value) or _find_message(error, _MAX_NESTING))[:_MAX_MESSAGE_CHARS],
        raw=span.raw,
    )


def _find_status(error: Mapping[str, Any], max_nesting: int) -> int | None:
    for name in _STATUS_MEMBERS:
        text = as_text(error.get(name))
        if len(text) == 3 and text.isascii() and text.isdigit():
            return int(text)
    return next(
        filter(
            None, (_find_status(inner, max_nesting - 1) for inner in _list_nested_objects(error, max_nesting))
        ),
        None,
    )


def _find_message(error: Mapping[str, Any], max_nesting: int) -> str:
    for name in _MESSAGE_MEMBERS:
        text = as_text(error.get(name))
        if text:
            return text
    return next(
        filter(
            None,
            (_find_message(inner, max_nesting - 1) for inner in _list_nested_objects(error, max_nesting)),
        ),
        "",
    )


def _list_nested_objects(error: Mapping[str, Any], max_nesting: int) -> list[dict[str, Any]]:
    names = ("error", "remote_error", "remote", "response", "meta", "payload")
    return (
        [as_object(error.get(name)) for name in names if isinstance(error.get(name), dict)]
        if max_nesting
        else []
    )
