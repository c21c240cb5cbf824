"""Options for times, such as --since 7d."""

from datetime import datetime

import click

from app.clock import utc_now
from app.times import parse_time

_TYPED_KEY = f"{__name__}.typed"


def parse_time_option(context: click.Context, option: click.Parameter, value: str | None) -> datetime | None:
    """Parse the value of a time option, as a click callback."""
    if value is None:
        return None
    context.meta.setdefault(_TYPED_KEY, {})[option.name] = value
    try:
        return parse_time(value, now=utc_now())
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


def get_typed_times(context: click.Context) -> dict[str, str]:
    """Return the times of a command as they were typed, by option name."""
    return dict(context.meta.get(_TYPED_KEY, {}))
