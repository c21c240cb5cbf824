"""What the commands about runs have in common: ids, and Truto."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import click

from app.config.settings import Settings, read_environment, read_settings
from app.truto.api import TrutoApi
from app.truto.client import Client

AS_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


def as_run_id(_context: click.Context, _option: click.Parameter, given: Any) -> Any:
    """Spell ids as Truto does, for click; what is none of Truto's may still stand in an event."""
    if isinstance(given, str):
        return _spell(given)
    return tuple(map(_spell, given or ()))


def _spell(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        return text


def run_id(_context: click.Context, _option: click.Parameter, given: Any) -> Any:
    """Check ids of Truto's, for click."""
    for text in [given] if isinstance(given, str) else given or ():
        try:
            UUID(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no id of Truto's: those are UUIDs.") from error
    return as_run_id(_context, _option, given)


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
