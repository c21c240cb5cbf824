"""Times as somebody types them."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import click

from app.truto.coerce import as_time

_AGO = re.compile(r"(\d{1,6})\s*(m|min|h|d|w)")
_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAYS = {"today": 0, "yesterday": 1}
_TYPED = f"{__name__}.typed"


def moment(context: click.Context, option: click.Parameter, given: str | None) -> datetime | None:
    """Read a time, for click: ISO 8601 (UTC where it names no offset), how long ago, or a day."""
    if given is None:
        return None
    context.meta.setdefault(_TYPED, {})[option.name] = given
    return read_moment(given, now=datetime.now(UTC))


def typed_moments(context: click.Context) -> dict[str, str]:
    """Return the times of a command as they were typed, by the names of their options."""
    return dict(context.meta.get(_TYPED, {}))


def read_moment(given: str, *, now: datetime) -> datetime:
    """Read a time as `moment` does; raises click.BadParameter for what is none."""
    text = given.strip().lower()
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
