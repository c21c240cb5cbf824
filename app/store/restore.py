"""Restore the bodies of pruned deliveries."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

from sqlalchemy import and_, select, update

from app.database.engine import Database
from app.store.compression import compress
from app.store.erasure import IS_ERASED, mentions_account
from app.store.models import AttributionSource
from app.store.schema import deliveries


@dataclass(frozen=True, slots=True)
class KnownDelivery:
    """A delivery that the inbox has. has_many_accounts: its records name several accounts."""

    id: UUID
    is_pruned: bool
    is_erased: bool
    has_many_accounts: bool


class PrunedBodies:
    """The bodies that retention removed. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_known(self, ids: Sequence[UUID]) -> dict[UUID, KnownDelivery]:
        """Return the deliveries among these ids that the inbox has, by id."""
        has_many_accounts = and_(
            deliveries.c.account_source == AttributionSource.RECORD, deliveries.c.integrated_account_id == ""
        )
        columns = (deliveries.c.id, deliveries.c.pruned_at.is_not(None), IS_ERASED, has_many_accounts)
        rows = self._database.read(select(*columns).where(deliveries.c.id.in_(ids))) if ids else ()
        return {row[0]: KnownDelivery(row[0], *map(bool, row[1:])) for row in rows}

    def is_erased(self, known: KnownDelivery, body: bytes) -> bool:
        """Whether a delivery was erased, or has records of an erased account."""
        return known.is_erased or (
            known.has_many_accounts
            and any(mentions_account(body, account) for account in self._erased_accounts)
        )

    def restore(self, delivery_id: UUID, body: bytes) -> bool:
        """Store the body of a pruned delivery again; return False if it was erased or restored meanwhile.

        body: verified by the caller. The state, the outcomes and the counts of the delivery do not change.
        """
        is_restorable = (deliveries.c.pruned_at.is_not(None), ~IS_ERASED)
        change = update(deliveries).where(deliveries.c.id == delivery_id, *is_restorable)
        [compressed] = compress([body])
        return self._database.execute(change.values(body=compressed, pruned_at=None)) == 1

    @cached_property
    def _erased_accounts(self) -> Sequence[str]:
        # An erased delivery with records of several accounts became the erased account's.
        accounts = select(deliveries.c.integrated_account_id).where(IS_ERASED).distinct()
        return [row[0] for row in self._database.read(accounts) if row[0]]
