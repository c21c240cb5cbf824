"""Dates and times in ISO 8601, read strictly; pure."""

import re
from datetime import UTC, datetime
from typing import Any

# Python also converts underscores, the digits of other scripts, and any character between date and time.
_WHITESPACE = " \t\r\n"
_TIMESTAMP = re.compile(
    r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}"
    r"(?:[T ][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2}(?:[.,][0-9]+)?)?)?"
    r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2})?)?)?)?"
)


def read_time(value: Any) -> datetime:
    """Read a date or time in ISO 8601, in its own offset; raises ValueError for anything else."""
    text = value.strip(_WHITESPACE).upper() if isinstance(value, str) else ""
    if not _TIMESTAMP.fullmatch(text):
        raise ValueError("not in ISO 8601")
    return datetime.fromisoformat(text)


def to_utc(time: datetime) -> datetime:
    """Return a time in UTC, which is also assumed without an offset; raises OverflowError."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
