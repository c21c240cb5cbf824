"""What the commands about runs have in common: ids, times, the store, and Truto."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click

from app.config import Settings, read_environment, read_settings
from app.truto.api import TrutoApi
from app.truto.client import Client
from app.truto.fields import as_time

AS_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
_AGO = re.compile(r"(\d{1,6})(m|h|d)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def run_id(_context: click.Context, _option: click.Parameter, given: Any) -> Any:
    """Check ids of Truto's, for click."""
    for text in [given] if isinstance(given, str) else given or ():
        try:
            UUID(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no id of Truto's: those are UUIDs.") from error
    return given


def moment(_context: click.Context, _option: click.Parameter, given: str | None) -> datetime | None:
    """Read a time, for click: ISO 8601 (UTC where it names no offset), or how long ago: 90m, 12h, 7d."""
    if given is None:
        return None
    if ago := _AGO.fullmatch(given.strip()):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    if (time := as_time(given)) is None:
        raise click.BadParameter(f"{given!r} is no time: write 12h, 7d or 2026-11-25T08:00.")
    return time


@contextmanager
def truto() -> Iterator[TrutoApi]:
    """Open Truto's API; raises ConfigError without a token."""
    with _open(read_settings(read_environment(), needs=("TRUTO_API_TOKEN",))) as api:
        yield api


@contextmanager
def truto_if_set(settings: Settings) -> Iterator[TrutoApi | None]:
    """Open Truto's API; None without a token."""
    if not settings.truto_api_token:
        yield None
        return
    with _open(settings) as api:
        yield api


@contextmanager
def _open(settings: Settings) -> Iterator[TrutoApi]:
    with Client(settings.truto_api_url, settings.truto_api_token) as client:
        yield TrutoApi(client)
