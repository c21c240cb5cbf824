"""Deliveries as they are received, without gaps and duplicates."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from app.database.engine import Database
from app.store.delivery_filter import DeliveryFilter, DeliverySummary, find_deliveries

# Another process may commit a delivery after others that were received later.
_OVERLAP = timedelta(seconds=5)


class DeliveryFeed:
    """Finds the deliveries that were stored since the last call, each of them once."""

    def __init__(self, database: Database, delivery_filter: DeliveryFilter, *, since: datetime) -> None:
        self._database = database
        self._filter = delivery_filter
        self._since = since
        self._yielded: dict[UUID, datetime] = {}

    def find_new_deliveries(self, *, now: datetime) -> Iterator[DeliverySummary]:
        """Yield new deliveries, oldest first; raises StoreUnavailable."""
        newest = self._since
        for delivery in find_deliveries(self._database, replace(self._filter, since=self._since)):
            newest = delivery.received_at
            if delivery.id not in self._yielded:
                self._yielded[delivery.id] = delivery.received_at
                yield delivery
        # A clock that is ahead of this one must not hide the deliveries that follow.
        self._since = max(self._since, min(newest, now) - _OVERLAP)
        self._yielded = {delivery_id: at for delivery_id, at in self._yielded.items() if at >= self._since}
