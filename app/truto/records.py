"""Bytes to records: all that can be read, and what cannot, one by one."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from app.truto.events import decode_body
from app.truto.json_scanner import JsonSpan, NotJson, scan_array, scan_document, scan_object

# NUL and surrogates, which PostgreSQL cannot hold: escaped, or (NUL alone) raw.
_MAYBE_UNSTORABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
# Pairs of surrogates and all other escapes match too, so that the halves of one are never taken for another.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<unstorable>u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2}))|.)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """A record no parser takes. raw: its JSON as it came.

    reason: not_json, too_deep, number_out_of_range or not_a_number.
    """

    ordinal: int
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """The records of one body, by their place in it.

    replaced: how many NULs and lone surrogates became U+FFFD.
    """

    records: Sequence[tuple[int, Any]]
    unreadable: Sequence[UnreadableRecord] = field(default=())
    replaced_characters: int = 0


class _UnreadableValue(ValueError):
    """Says why a value cannot be read."""


def read_records(body: bytes, *, payload_is_record: bool = False) -> RecordBatch | None:
    """Read the records of an event; None where its payload holds none.

    `records` may be a list or one value, or missing with the item in `record`; a record may be any JSON.
    payload_is_record: where neither is there, the payload itself is the one record.
    Numbers beyond a float's range, and NaN, make a record unreadable: no store would give them back.
    """
    try:
        event, replaced = _decode_event(body)
        values = _select_records(event["payload"], payload_is_record=payload_is_record)
    except (ValueError, TypeError, LookupError, RecursionError):
        # One bad record spoils the whole body for a parser: take them one by one.
        return _read_records_one_by_one(body, payload_is_record=payload_is_record)
    return None if values is None else RecordBatch(list(enumerate(values)), (), replaced)


def _decode_event(body: bytes) -> tuple[Any, int]:
    """Return a body's value, and how many characters were replaced in it."""
    if b"\0" in body or _MAYBE_UNSTORABLE.search(body):
        text, replaced = _replace_unstorable(decode_body(body))
        return _DECODER.decode(text), replaced
    try:
        return _FAST_DECODER.decode(body), 0
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _DECODER.decode(decode_body(body)), 0


def read_raw_records(
    body: bytes, ordinals: Sequence[int], *, payload_is_record: bool = False
) -> dict[int, str]:
    """Return the JSON of these records as it came."""
    if not ordinals:
        return {}
    wanted = set(ordinals)
    spans = _scan_records(body, payload_is_record=payload_is_record) or ()
    return {ordinal: span.raw for ordinal, span in enumerate(spans) if ordinal in wanted}


def _select_records(payload: Any, *, payload_is_record: bool) -> list[Any] | None:
    if isinstance(payload, dict):
        for name in ("records", "record"):
            value = payload.get(name)
            if value is not None:
                return value if isinstance(value, list) else [value]
    return [payload] if payload_is_record else None


def _scan_records(body: bytes, *, payload_is_record: bool) -> Sequence[JsonSpan] | None:
    """Find the records without reading them; the same choice as `_pick`."""
    try:
        payload = scan_object(scan_document(decode_body(body))).get("payload")
        if payload is None:
            return None
        payload_members = scan_object(payload) if payload.is_object else {}
    except NotJson:
        return None
    for name in ("records", "record"):
        span = payload_members.get(name)
        if span is not None and span.raw != "null":
            return scan_array(span)
    return [payload] if payload_is_record else None


def _read_records_one_by_one(body: bytes, *, payload_is_record: bool) -> RecordBatch | None:
    spans = _scan_records(body, payload_is_record=payload_is_record)
    if spans is None:
        return None
    records, unreadable, replaced = [], [], 0
    for ordinal, span in enumerate(spans):
        try:
            text, count = _replace_unstorable(span.raw)
            records.append((ordinal, _DECODER.decode(text)))
            replaced += count
        except (ValueError, RecursionError) as error:
            unreadable.append(UnreadableRecord(ordinal, _unreadable_reason(error), span.raw))
    return RecordBatch(records, unreadable, replaced)


def _unreadable_reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "too_deep"
    if isinstance(error, _UnreadableValue):
        return str(error)
    # What is left besides broken JSON is Python's own limit on the digits of an integer.
    return "not_json" if isinstance(error, json.JSONDecodeError) else "number_out_of_range"


def _replace_unstorable(raw: str) -> tuple[str, int]:
    """Replace NULs and lone surrogates in a JSON text, keys included; return it and how many there were.

    In the text and not in the value: a value may be nested deeper than a walk over it can go.
    """
    replaced = raw.count("\0")

    def replace(escape: re.Match[str]) -> str:
        nonlocal replaced
        if escape["unstorable"] is None:
            return escape[0]
        replaced += 1
        return "\ufffd"

    cleaned = _ESCAPE.sub(replace, raw.replace("\0", "\ufffd"))
    return cleaned, replaced


def _parse_finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _UnreadableValue("number_out_of_range")
    return number


def _reject_constant(_constant: str) -> None:
    raise _UnreadableValue("not_a_number")


_parse_constant: Callable[[str], Any] = _reject_constant
# Whatever it takes it reads as `json` does, at twice the speed. It refuses all that needs a closer look.
_FAST_DECODER = msgspec.json.Decoder()
# Not strict: a raw line break inside a string is no reason to lose a record.
_DECODER = json.JSONDecoder(parse_float=_parse_finite, parse_constant=_parse_constant, strict=False)
