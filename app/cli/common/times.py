"""Times as users type them in options."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import click

from app.truto.coerce import as_time

_AGO_PATTERN = re.compile(r"(\d{1,6})\s*(m|min|h|d|w)")
_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAYS_AGO = {"today": 0, "yesterday": 1}
_TYPED_KEY = f"{__name__}.typed"


def parse_time_option(context: click.Context, option: click.Parameter, value: str | None) -> datetime | None:
    """Parse the value of an option as `parse_time` does, and remember it as it was typed."""
    if value is None:
        return None
    context.meta.setdefault(_TYPED_KEY, {})[option.name] = value
    return parse_time(value, now=datetime.now(UTC))


def get_typed_times(context: click.Context) -> dict[str, str]:
    """Return a command's times as they were typed, by the names of their options."""
    return dict(context.meta.get(_TYPED_KEY, {}))


def parse_time(value: str, *, now: datetime) -> datetime:
    """Parse ISO 8601 (UTC without an offset), a duration before now such as 12h, or a day.

    Raises click.BadParameter.
    """
    text = value.strip().lower()
    if ago := _AGO_PATTERN.fullmatch(text):
        with suppress(OverflowError):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        # The duration reaches back before the first year that a datetime can hold.
        return datetime.min.replace(tzinfo=UTC)
    if text in _DAYS_AGO:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=_DAYS_AGO[text])
    if (time := as_time(value)) is None:
        hint = "write 90m, 12h, 7d, today, 2026-11-25 or 2026-11-25T08:00 (UTC)."
        raise click.BadParameter(f"{value!r} is not a time: {hint}")
    return time
