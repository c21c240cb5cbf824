"""Times as somebody types them."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import click

from app.truto.fields import as_time

_AGO = re.compile(r"(\d{1,6})\s*(m|min|h|d|w)")
_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAYS = {"today": 0, "yesterday": 1}


def moment(_context: click.Context, _option: click.Parameter, given: str | None) -> datetime | None:
    """Read a time, for click: ISO 8601 (UTC where it names no offset), how long ago, or a day."""
    if given is None:
        return None
    text, now = given.strip().lower(), datetime.now(UTC)
    if ago := _AGO.fullmatch(text):
        with suppress(OverflowError):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        # Before there was time.
        return datetime.min.replace(tzinfo=UTC)
    if text in _DAYS:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=_DAYS[text])
    if (time := as_time(given)) is None:
        hint = "write 90m, 12h, 7d, today, 2026-11-25 or 2026-11-25T08:00 (UTC)."
        raise click.BadParameter(f"{given!r} is no time: {hint}")
    return time
