"""Opening of the store's database, as the settings name it."""

from typing import Any, Protocol

from app.database.engine import Database, open_database
from app.encryption import Keyring


class StoreSettings(Protocol):
    """The settings of the store."""

    @property
    def database_url(self) -> str: ...
    @property
    def database_schema(self) -> str: ...
    @property
    def encryption_keys(self) -> Keyring: ...


def open_store(settings: StoreSettings, **options: Any) -> Database:
    """Prepare the store's database, as `open_database` does. options: see there."""
    return open_database(
        settings.database_url, schema=settings.database_schema, keyring=settings.encryption_keys, **options
    )
