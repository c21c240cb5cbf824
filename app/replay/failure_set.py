"""A set of failures as a person counted it, for a replay or discard."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from app.config.delivery_config import DeliveryConfig
from app.database.engine import Database
from app.replay.operations import start_discard, start_replay
from app.replay.request import ReplayRequest, select_dead_records, select_failed
from app.store.bounded_count import BoundedCount
from app.store.delivery_filter import DeliveryFilter
from app.store.discards import DiscardableSet
from app.store.operations import Operation, Requester
from app.store.reasons import RECORD


@dataclass(frozen=True, slots=True)
class FailureSet:
    """Failed deliveries, or dead records of settled deliveries, as they were at a time.

    Failures that arrive later, or fail again after a replay, are no part of it: two people who confirm the
    same set do its work once.
    """

    delivery_filter: DeliveryFilter
    of_records: bool
    counted_at: datetime

    @classmethod
    def build(cls, delivery_filter: DeliveryFilter, *, of_records: bool, counted_at: datetime) -> Self:
        """Return the set of a filter at a time. A cause in the filter decides about `of_records`."""
        if delivery_filter.cause:
            of_records = delivery_filter.cause.state == RECORD
        until = min(delivery_filter.until or counted_at, counted_at)
        return cls(replace(delivery_filter, until=until), of_records, counted_at)

    def count(self, database: Database) -> BoundedCount:
        """Count the failures that are in the set now; raises StoreUnavailable."""
        # Not limited by the time of the last change, which the index does not have.
        return DiscardableSet(database, self.delivery_filter, of_records=self.of_records).count_bounded()

    def count_unchanged(self, database: Database) -> BoundedCount:
        """Count the failures of the set that nobody has changed since; raises StoreUnavailable."""
        return DiscardableSet(database, self._limited, of_records=self.of_records).count_bounded()

    def start_replay(
        self, database: Database, *, requester: Requester, config: DeliveryConfig, now: datetime
    ) -> Operation:
        """Replay the deliveries of the set; see `app.replay.operations.start_replay`."""
        select = select_dead_records if self.of_records else select_failed
        request = ReplayRequest(select(self._limited))
        return start_replay(database, request, requester=requester, config=config, now=now)

    def start_discard(
        self, database: Database, *, because: str, number: BoundedCount, requester: Requester, now: datetime
    ) -> Operation:
        """Discard the set; see `app.replay.operations.start_discard`. number: as it was counted."""
        return start_discard(
            database,
            self._limited,
            of_records=self.of_records,
            because=because,
            requester=requester,
            total=number.number if number.is_exact else None,
            now=now,
        )

    @property
    def _limited(self) -> DeliveryFilter:
        return replace(self.delivery_filter, settled_until=self.counted_at)
