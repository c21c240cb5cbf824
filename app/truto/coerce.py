"""Reads single values that may be spelt in several ways, or be anything at all."""

import json
import re
from datetime import UTC, datetime
from typing import Any

from app.truto.json_scanner import JsonSpan, scan_object

_MAX_COUNT_DIGITS = 15
# PostgreSQL holds neither in text.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def as_text(value: Any) -> str:
    """Return a string or a number as text without NUL and lone surrogates, anything else as ""."""
    if value is None:
        return ""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    try:
        return str(value)
    except ValueError:  # an integer of thousands of digits
        return ""


def as_time(value: Any) -> datetime | None:
    """Return an aware UTC datetime from an ISO 8601 text, "T" or space between; no offset means UTC."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value.strip())
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def as_count(value: Any) -> int | None:
    """Return a whole number from 0, however it is spelt, and None for anything else."""
    text = as_text(value)
    digits = text.removesuffix(".0") if isinstance(value, float) else text
    # No run counts so far: what does is no count.
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_COUNT_DIGITS else None


def as_object(value: Any) -> dict[str, Any]:
    """Return an object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def read_span(span: JsonSpan | None) -> Any:
    """Read one value of a skimmed text; None where it cannot be read."""
    if span is None:
        return None
    try:
        return json.loads(span.raw, strict=False)
    except (ValueError, RecursionError):
        return None


def read_members(span: JsonSpan | None, names: frozenset[str]) -> dict[str, Any]:
    """Read the members of these names of a skimmed object; {} where it is none."""
    if span is None or not span.is_object:
        return {}
    return {name: read_span(value) for name, value in scan_object(span).items() if name in names}
