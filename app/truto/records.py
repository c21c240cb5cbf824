"""Bytes to records: all that can be read, and what cannot, one by one."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.truto.events import decode
from app.truto.skimmer import NotJson, Span, items, members, whole

# What cleaning is needed for: NUL and surrogates, as escapes or (NUL alone) raw.
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|\x00")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


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
    """The records of one body, by their place in it. replaced: NULs and lone surrogates made U+FFFD."""

    records: Sequence[tuple[int, Any]]
    unreadable: Sequence[UnreadableRecord] = field(default=())
    replaced: int = 0


class _Unreadable(ValueError):
    """Says why a value cannot be read."""


def read_records(body: bytes, *, payload_is_record: bool = False) -> RecordBatch | None:
    """Read the records of an event; None where its payload holds none.

    `records` may be a list or one value, or missing with the item in `record`; a record may be any JSON.
    payload_is_record: where neither is there, the payload itself is the one record.
    Numbers beyond a float's range, and NaN, make a record unreadable: no store would give them back.
    """
    try:
        payload = _DECODER.decode(decode(body))["payload"]
        values = _pick(payload, payload_is_record=payload_is_record)
        if values is None:
            return None
        if not _SUSPECT.search(body):
            return RecordBatch(list(enumerate(values)))
        replaced = [0]
        return RecordBatch([(n, _clean(value, replaced)) for n, value in enumerate(values)], (), replaced[0])
    except (ValueError, TypeError, LookupError, RecursionError):
        # One bad record spoils the whole body for a parser: take them one by one.
        return _read_one_by_one(body, payload_is_record=payload_is_record)


def raw_records(body: bytes, ordinals: Sequence[int], *, payload_is_record: bool = False) -> dict[int, str]:
    """Return the JSON of these records as it came."""
    if not ordinals:
        return {}
    wanted = set(ordinals)
    spans = _skim(body, payload_is_record=payload_is_record) or ()
    return {ordinal: span.raw for ordinal, span in enumerate(spans) if ordinal in wanted}


def _pick(payload: Any, *, payload_is_record: bool) -> list[Any] | None:
    if isinstance(payload, dict):
        for name in ("records", "record"):
            value = payload.get(name)
            if value is not None:
                return value if isinstance(value, list) else [value]
    return [payload] if payload_is_record else None


def _skim(body: bytes, *, payload_is_record: bool) -> Sequence[Span] | None:
    """Find the records without reading them; the same choice as `_pick`."""
    try:
        payload = members(whole(decode(body))).get("payload")
        if payload is None:
            return None
        found = members(payload) if payload.is_object else {}
    except NotJson:
        return None
    for name in ("records", "record"):
        span = found.get(name)
        if span is not None and span.raw != "null":
            return items(span)
    return [payload] if payload_is_record else None


def _read_one_by_one(body: bytes, *, payload_is_record: bool) -> RecordBatch | None:
    spans = _skim(body, payload_is_record=payload_is_record)
    if spans is None:
        return None
    records, unreadable, replaced = [], [], [0]
    for ordinal, span in enumerate(spans):
        try:
            records.append((ordinal, _clean(_DECODER.decode(span.raw), replaced)))
        except (ValueError, RecursionError) as error:
            unreadable.append(UnreadableRecord(ordinal, _reason(error), span.raw))
    return RecordBatch(records, unreadable, replaced[0])


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "too_deep"
    if isinstance(error, _Unreadable):
        return str(error)
    # What is left besides broken JSON is Python's own limit on the digits of an integer.
    return "not_json" if isinstance(error, json.JSONDecodeError) else "number_out_of_range"


def _clean(value: Any, replaced: list[int]) -> Any:
    """Replace what PostgreSQL cannot hold, in keys too; adds to replaced[0]."""
    if isinstance(value, str):
        cleaned, count = _UNSTORABLE.subn("\ufffd", value)
        replaced[0] += count
        return cleaned
    if isinstance(value, list):
        return [_clean(item, replaced) for item in value]
    if isinstance(value, dict):
        return {_clean(name, replaced): _clean(item, replaced) for name, item in value.items()}
    return value


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Unreadable("number_out_of_range")
    return number


def _refuse(_constant: str) -> None:
    raise _Unreadable("not_a_number")


_refuse_constant: Callable[[str], Any] = _refuse
# Not strict: a raw line break inside a string is no reason to lose a record.
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant, strict=False)
