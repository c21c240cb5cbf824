"""Restore the bodies of pruned deliveries."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select, update

from app.database.engine import Database
from app.store.encryption_keys import EncryptionKeys
from app.store.erasure import IS_ERASED
from app.store.schema import deliveries
from app.store.stored_body import encode_bodies


@dataclass(frozen=True, slots=True)
class KnownDelivery:
    """A delivery that the inbox has."""

    id: UUID
    is_pruned: bool
    is_erased: bool


class PrunedBodies:
    """The bodies that retention removed. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = EncryptionKeys(database)

    def find_known(self, ids: Sequence[UUID]) -> dict[UUID, KnownDelivery]:
        """Return the deliveries among these ids that the inbox has, by id."""
        columns = (deliveries.c.id, deliveries.c.pruned_at.is_not(None), IS_ERASED)
        rows = self._database.read(select(*columns).where(deliveries.c.id.in_(ids))) if ids else ()
        return {
            id_: KnownDelivery(id_, is_pruned=bool(is_pruned), is_erased=bool(is_erased))
            for id_, is_pruned, is_erased in rows
        }

    def restore(self, delivery_id: UUID, body: bytes) -> bool:
        """Store the body of a pruned delivery again; return False if it was erased or restored meanwhile.

        body: verified by the caller. The state, the outcomes and the counts of the delivery do not change.
        """
        is_restorable = (deliveries.c.pruned_at.is_not(None), ~IS_ERASED)
        change = update(deliveries).where(deliveries.c.id == delivery_id, *is_restorable)
        self._keys.register()
        [stored] = encode_bodies(self._database.keyring, [delivery_id], [body])
        return self._database.execute(change.values(body=stored, pruned_at=None)) == 1
