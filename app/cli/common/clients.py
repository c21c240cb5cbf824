"""What the commands about runs have in common: ids, and Truto."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import click

from app.config.settings import Settings, read_environment, read_settings
from app.truto.client import TrutoApi, TrutoClient

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


def normalize_run_ids(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
    """Spell ids as Truto does, for click; what is none of Truto's may still stand in an event."""
    if isinstance(value, str):
        return _normalize_id(value)
    return tuple(map(_normalize_id, value or ()))


def _normalize_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        return text


def parse_truto_ids(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
    """Check ids of Truto's, for click."""
    for text in [value] if isinstance(value, str) else value or ():
        try:
            UUID(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no id of Truto's: those are UUIDs.") from error
    return normalize_run_ids(_context, _option, value)


@contextmanager
def open_truto_api() -> Iterator[TrutoApi]:
    """Open Truto's API; raises ConfigError without a token."""
    with _open_api(read_settings(read_environment(), required=("TRUTO_API_TOKEN",))) as api:
        yield api


@contextmanager
def open_optional_truto_api(settings: Settings) -> Iterator[TrutoApi | None]:
    """Open Truto's API; None without a token."""
    if not settings.truto_api_token:
        yield None
        return
    with _open_api(settings) as api:
        yield api


@contextmanager
def _open_api(settings: Settings) -> Iterator[TrutoApi]:
    with TrutoClient(settings.truto_api_url, settings.truto_api_token) as client:
        yield TrutoApi(client)
