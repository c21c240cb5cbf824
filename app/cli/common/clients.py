"""The database and Truto's API, opened for one command."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.config.settings import Settings, read_environment, read_settings
from app.database.engine import Database
from app.store.store_database import open_store
from app.truto.client import TrutoClient


def open_interactive_database(settings: Settings | None = None) -> Database:
    """Open the database in DATABASE_URL for a user who waits, until the command ends; raises ConfigError."""
    settings = settings or read_settings(read_environment())
    database = open_store(settings, interactive=True)
    click.get_current_context().call_on_close(database.close)
    return database


@contextmanager
def open_truto_api() -> Iterator[TrutoClient]:
    """Open Truto's API; raises ConfigError without TRUTO_API_TOKEN."""
    with _open_api(read_settings(read_environment(), required=("TRUTO_API_TOKEN",))) as api:
        yield api


@contextmanager
def open_optional_truto_api(settings: Settings) -> Iterator[TrutoClient | None]:
    """Open Truto's API, or yield None without a token."""
    if not settings.truto_api_token:
        yield None
        return
    with _open_api(settings) as api:
        yield api


@contextmanager
def _open_api(settings: Settings) -> Iterator[TrutoClient]:
    with TrutoClient(settings.truto_api_url, settings.truto_api_token) as client:
        yield client
