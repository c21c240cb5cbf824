"""The keys that stored data is encrypted with: which ones must be in ENCRYPTION_KEYS."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select

from app.clock import utc_now
from app.database.engine import Database
from app.database.upsert import insert_into
from app.errors import ConfigError
from app.store.migrate import is_current
from app.store.schema import encryption_keys

# A rotation forgets an old key, although a process that was not restarted may still encrypt with it.
_REGISTER_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class KeyInUse:
    """A key that stored data may be encrypted with. is_configured: whether it is in ENCRYPTION_KEYS."""

    id: str
    first_used_at: datetime
    is_configured: bool
    is_current: bool


class EncryptionKeys:
    """The table of keys, without the keys themselves. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._register_at_s = 0.0

    def register(self) -> None:
        """Record the current key, before this process encrypts with it, and once a minute."""
        current = self._database.keyring.current
        if current is None or time.monotonic() < self._register_at_s:
            return
        insert = insert_into(self._database.dialect.name, encryption_keys)
        row = {"key_id": current.id, "first_used_at": utc_now()}
        self._database.execute(insert.values(row).on_conflict_do_nothing())
        self._register_at_s = time.monotonic() + _REGISTER_INTERVAL_S

    def list_in_use(self) -> list[KeyInUse]:
        """Return the recorded keys, oldest first."""
        keyring = self._database.keyring
        current_id = keyring.current.id if keyring.current else None
        order = (encryption_keys.c.first_used_at, encryption_keys.c.key_id)
        return [
            KeyInUse(
                row.key_id,
                row.first_used_at,
                is_configured=row.key_id in keyring.ids,
                is_current=row.key_id == current_id,
            )
            for row in self._database.read(select(encryption_keys).order_by(*order))
        ]

    def remove(self, key_ids: Sequence[str]) -> None:
        """Forget keys that no data is encrypted with any more."""
        self._database.execute(delete(encryption_keys).where(encryption_keys.c.key_id.in_(key_ids)))


def refuse_missing_keys(database: Database) -> None:
    """Raise ConfigError if stored data needs a key that is not set; pass if there are no tables yet.

    Raises StoreUnavailable.
    """
    if not is_current(database):
        return
    missing = [key.id for key in EncryptionKeys(database).list_in_use() if not key.is_configured]
    if missing:
        raise ConfigError([describe_missing_keys(missing)])


def describe_missing_keys(key_ids: Sequence[str]) -> str:
    """Return the problem of keys that are in use and not set, with the next step."""
    return (
        f"ENCRYPTION_KEYS: stored data is encrypted with keys that are not set: {', '.join(key_ids)}. Add "
        "them again, behind the other keys; after `rapidbridge keys rotate` they can be removed."
    )
