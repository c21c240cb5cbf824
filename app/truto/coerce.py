"""Conversions of untrusted JSON values to text, time, count or object.

None of them raises: a value of another type becomes "", None or {}.
"""

import re
from datetime import UTC, datetime
from typing import Any

# No run has more records than that: a longer number is no count.
_MAX_COUNT_DIGITS = 15
# PostgreSQL stores neither NUL nor a surrogate in text.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def as_text(value: Any) -> str:
    """Return a string or a number as text, with U+FFFD for NUL and lone surrogates; "" for other types."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value if value.isprintable() else _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    try:
        return str(value)
    except ValueError:  # an integer of thousands of digits
        return ""


def as_time(value: Any) -> datetime | None:
    """Return the aware UTC time of an ISO 8601 text, separated by "T" or a space; UTC without an offset."""
    text = value.strip() if isinstance(value, str) else ""
    # Python also accepts a NUL at the end, and any separator: readers that replace characters would disagree.
    if not (text.isascii() and text.isprintable()):
        return None
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def as_count(value: Any) -> int | None:
    """Return a non-negative whole number from an int, float or text; None for anything else."""
    text = as_text(value)
    digits = text.removesuffix(".0") if isinstance(value, float) else text
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_COUNT_DIGITS else None


def as_object(value: Any) -> dict[str, Any]:
    """Return a JSON object; {} for anything else."""
    return value if isinstance(value, dict) else {}
