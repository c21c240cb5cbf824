"""Times written by a person, such as 12h or yesterday, and durations for people."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from app.truto.coerce import as_time

_AGE_PATTERN = re.compile(r"(\d{1,6})\s*(m|min|h|d|w)")
_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_DAYS_AGO = {"today": 0, "yesterday": 1}


def parse_time(text: str, *, now: datetime) -> datetime:
    """Return an aware UTC time from an age, a day or ISO 8601; raises ValueError.

    text: "90m", "7d", "today", "2026-11-25" or "2026-11-25T08:00"; UTC without an offset.
    now: the time that ages and days are relative to.
    """
    normalized = text.strip().lower()
    if age := _AGE_PATTERN.fullmatch(normalized):
        with suppress(OverflowError):
            return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
        return datetime.min.replace(tzinfo=UTC)
    if normalized in _DAYS_AGO:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=_DAYS_AGO[normalized])
    if (time := as_time(text)) is None:
        raise ValueError(
            f"{text!r} is not a time; write 90m, 12h, 7d, today, 2026-11-25 or 2026-11-25T08:00 (UTC)"
        )
    return time


def format_duration(seconds: float) -> str:
    """Return a duration in its largest unit, such as "3 min"; two units from a day on."""
    left = max(0, round(seconds))
    if left < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms" if seconds > 0 else "0 s"
    size, unit = next((size, unit) for size, unit in _DURATION_UNITS if left >= size)
    rest = left % size // 3600
    return f"{left // size} {unit}" + (f" {rest} h" if unit == "d" and rest else "")
