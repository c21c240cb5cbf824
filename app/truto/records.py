"""Parser of an event's records, which isolates the unreadable ones."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from app.truto.json_reader import replace_unstorable
from app.truto.json_scanner import JsonSpan, NotJson, scan_array, scan_document, scan_object

# JSON that is written as it is.
RawJson = msgspec.Raw
# A decimal with its text as it was sent, because a float loses digits.
ExactDecimal = RawJson

_PAYLOAD = frozenset({"payload"})
_RECORD_MEMBERS = frozenset({"records", "record"})
# Escaped NULs and surrogates, which PostgreSQL cannot store.
_MAYBE_UNSTORABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
# The slower, exact test: a text whose escaped surrogates are all in pairs, as in an escaped emoji.
_STORABLE = re.compile(
    rb"[^\\\0]*+(?:\\(?:[^u\0]|u(?!0000|[dD][89a-fA-F])|u[dD][89abAB]..\\u[dD][c-fC-F])[^\\\0]*+)*+",
    re.DOTALL,
)
# A number of so many digits is below the largest float, 1.8e308.
_MAX_FINITE_DIGITS = 300


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """A record that cannot be parsed. raw: its JSON, unchanged.

    reason: not_json, too_deep, number_out_of_range or not_a_number.
    """

    ordinal: int
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """The records of one body, each with its ordinal: its position in the body, from 0.

    records: JSON values, with each decimal as an ExactDecimal.
    replaced_characters: the number of NULs, lone surrogates and invalid UTF-8 sequences that became U+FFFD.
    originals: by ordinal, the JSON of the readable records in which characters were replaced, before that.
    Escapes are unchanged in it, and each invalid byte is a raw surrogate (Python's "surrogateescape").
    """

    records: Sequence[tuple[int, Any]]
    unreadable: Sequence[UnreadableRecord] = field(default=())
    replaced_characters: int = 0
    originals: Mapping[int, str] = field(default_factory=dict)


class _UnreadableValue(ValueError):
    """A value that cannot be read; its text is the reason."""


def read_records(
    body: bytes, *, payload_is_record: bool = False, first_ordinal: int = 0
) -> RecordBatch | None:
    """Read the records of an event; None if its payload has none.

    The payload has a list or one value in `records`, or one value in `record`. A record is any JSON value.
    payload_is_record: if the payload has neither member, it is the only record itself.
    first_ordinal: of the first record, if the body is a slice of a larger one.
    Numbers beyond a float's range, and NaN, make a record unreadable: readers of a sink would get infinity.
    """
    try:
        event = _decode_event(body)
        values = _select_records(event["payload"], payload_is_record=payload_is_record)
    except (ValueError, TypeError, LookupError, RecursionError):
        # A parser rejects the whole body because of one bad record: parse them one by one.
        return _read_records_one_by_one(
            body, payload_is_record=payload_is_record, first_ordinal=first_ordinal
        )
    return None if values is None else RecordBatch(list(enumerate(values, first_ordinal)))


def _decode_event(body: bytes) -> Any:
    """Return the value of a body in which no character must be replaced; else raise ValueError."""
    # Most bodies have no escape, which is known in no time.
    has_escapes = b"\\" in body
    if b"\0" in body or (has_escapes and _MAYBE_UNSTORABLE.search(body) and not _STORABLE.fullmatch(body)):
        raise _UnreadableValue("unstorable")
    try:
        return _FAST_DECODER.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _DECODER.decode(body.decode("utf-8-sig"))


def decode_json(text: str) -> Any:
    """Decode JSON, with each decimal as an ExactDecimal; raises ValueError or RecursionError."""
    return _DECODER.decode(text)


def encode_json(value: Any) -> bytes:
    """Return a value of a record as JSON; raises ValueError or RecursionError."""
    return _ENCODER.encode(value)


def to_json(value: Any) -> str:
    """Return a value of a record as JSON text; raises ValueError or RecursionError."""
    return encode_json(value).decode()


def indent_json(value: Any) -> str:
    """Return a value of a record as indented JSON; raises ValueError or RecursionError."""
    return msgspec.json.format(encode_json(value), indent=2).decode()


def decimal_text(decimal: ExactDecimal) -> str:
    """Return the text of a decimal as it was sent."""
    return bytes(decimal).decode()


def read_raw_records(
    body: bytes, ordinals: Sequence[int], *, payload_is_record: bool = False, first_ordinal: int = 0
) -> dict[int, str]:
    """Return the unchanged JSON of the records with these ordinals. first_ordinal: see `read_records`."""
    if not ordinals:
        return {}
    wanted = set(ordinals)
    spans = _scan_records(body, payload_is_record=payload_is_record) or ()
    return {ordinal: span.raw for ordinal, span in enumerate(spans, first_ordinal) if ordinal in wanted}


def _select_records(payload: Any, *, payload_is_record: bool) -> list[Any] | None:
    if isinstance(payload, dict):
        for name in ("records", "record"):
            value = payload.get(name)
            if value is not None:
                return value if isinstance(value, list) else [value]
    return [payload] if payload_is_record else None


def _scan_records(body: bytes, *, payload_is_record: bool) -> Sequence[JsonSpan] | None:
    span = find_records(body, payload_is_record=payload_is_record)
    return None if span is None else scan_array(span)


def find_records(body: bytes, *, payload_is_record: bool) -> JsonSpan | None:
    """Locate the records of a body without parsing them; None if its payload has none.

    Return the span of their array, or of the only record. payload_is_record: see `read_records`.
    """
    try:
        payload = scan_object(scan_document(body), _PAYLOAD).get("payload")
        if payload is None:
            return None
        payload_members = scan_object(payload, _RECORD_MEMBERS) if payload.is_object else {}
    except NotJson:
        return None
    for name in ("records", "record"):
        span = payload_members.get(name)
        if span is not None and not span.is_null:
            return span
    return payload if payload_is_record else None


def _read_records_one_by_one(
    body: bytes, *, payload_is_record: bool, first_ordinal: int
) -> RecordBatch | None:
    spans = _scan_records(body, payload_is_record=payload_is_record)
    if spans is None:
        return None
    records, unreadable, originals, replaced = [], [], {}, 0
    for ordinal, span in enumerate(spans, first_ordinal):
        raw = span.raw
        try:
            text, unstorable = replace_unstorable(raw)
            records.append((ordinal, _DECODER.decode(text)))
        except (ValueError, RecursionError) as error:
            unreadable.append(UnreadableRecord(ordinal, _unreadable_reason(error), raw))
            continue
        original = span.raw_bytes
        invalid = raw.count("\ufffd") - original.count(b"\xef\xbf\xbd")
        if count := invalid + unstorable:
            originals[ordinal] = original.decode(errors="surrogateescape")
            replaced += count
    return RecordBatch(records, unreadable, replaced, originals)


def _unreadable_reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "too_deep"
    if isinstance(error, _UnreadableValue):
        return str(error)
    # The only other ValueError is Python's limit on the digits of an integer.
    return "not_json" if isinstance(error, json.JSONDecodeError) else "number_out_of_range"


def _parse_decimal(text: str) -> ExactDecimal:
    may_be_infinite = "e" in text or "E" in text or len(text) > _MAX_FINITE_DIGITS
    if may_be_infinite and math.isinf(float(text)):
        raise _UnreadableValue("number_out_of_range")
    return ExactDecimal(text)


def _reject_constant(_constant: str) -> None:
    raise _UnreadableValue("not_a_number")


_parse_constant: Callable[[str], Any] = _reject_constant
# msgspec reads valid JSON as `json` does, twice as fast, and rejects everything that needs a closer look.
_FAST_DECODER = msgspec.json.Decoder(float_hook=_parse_decimal)
# Six times as fast as `json`.
_ENCODER = msgspec.json.Encoder()
# Not strict: a raw line break in a string must not lose a record.
_DECODER = json.JSONDecoder(parse_float=_parse_decimal, parse_constant=_parse_constant, strict=False)
