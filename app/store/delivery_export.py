"""Whole deliveries, bodies included, however many they are."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy import select

from app.database.engine import Store, autocommit, translate_errors
from app.store.compression import decompress
from app.store.delivery_filter import DeliveryFilter, DeliverySummary, find_deliveries
from app.store.export_format import ExportedDelivery
from app.store.schema import deliveries

# What is read at once; a larger body is read alone.
_MAX_BYTES_PER_READ = 2 * 1024 * 1024
_MAX_DELIVERIES_PER_READ = 500
_COLUMNS = [deliveries.c[name] for name in ExportedDelivery.__dataclass_fields__]


class DeliveryExport:
    """A selection's deliveries, oldest first, and how many had to be left out: pruned or damaged bodies."""

    def __init__(self, store: Store, delivery_filter: DeliveryFilter) -> None:
        self._store = store
        self._delivery_filter = delivery_filter
        self.pruned = 0
        self.damaged: list[UUID] = []

    def read_deliveries(self) -> Iterator[ExportedDelivery | None]:
        """Yield each delivery, None for one that is left out; raises StoreUnavailable."""
        for group in _group_by_size(find_deliveries(self._store, self._delivery_filter)):
            stored = self._read([summary.id for summary in group])
            # In the order in which they came. One that was erased meanwhile is left out with the pruned.
            for summary in group:
                yield self._decompress(summary.id, stored.pop(summary.id, None))

    def _read(self, ids: Sequence[UUID]) -> dict[UUID, ExportedDelivery]:
        statement = select(*_COLUMNS).where(deliveries.c.id.in_(ids), deliveries.c.pruned_at.is_(None))
        with translate_errors(), autocommit(self._store) as connection:
            return {row.id: ExportedDelivery(*row) for row in connection.execute(statement)}

    def _decompress(self, delivery_id: UUID, stored: ExportedDelivery | None) -> ExportedDelivery | None:
        if stored is None:
            self.pruned += 1
            return None
        try:
            return replace(stored, body=decompress(stored.body))
        except ValueError:
            self.damaged.append(delivery_id)
            return None


def _group_by_size(summaries: Iterable[DeliverySummary]) -> Iterator[list[DeliverySummary]]:
    group, size = list[DeliverySummary](), 0
    for summary in summaries:
        size += summary.body_bytes
        if group and (size > _MAX_BYTES_PER_READ or len(group) == _MAX_DELIVERIES_PER_READ):
            yield group
            group, size = [], summary.body_bytes
        group.append(summary)
    if group:
        yield group
