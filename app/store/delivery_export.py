"""Whole deliveries, bodies included, however many they are."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy import select

from app.database.engine import Store, one_statement, store_faults
from app.store.compression import decompress
from app.store.delivery_filter import Found, Selection, find
from app.store.export_format import Exported
from app.store.schema import deliveries

# What is read at once; a larger body is read alone.
_MOST_BYTES = 2 * 1024 * 1024
_MOST = 500
_COLUMNS = [deliveries.c[name] for name in Exported.__dataclass_fields__]


class Export:
    """A selection's deliveries, oldest first, and how many had to be left out: pruned or damaged bodies."""

    def __init__(self, store: Store, selection: Selection) -> None:
        self._store = store
        self._selection = selection
        self.pruned = 0
        self.damaged: list[UUID] = []

    def read(self) -> Iterator[Exported | None]:
        """Yield each delivery, None for one that is left out; raises StoreUnavailable."""
        for group in _groups(find(self._store, self._selection)):
            stored = self._read([found.id for found in group])
            # In the order in which they came. One that was erased meanwhile is left out with the pruned.
            for found in group:
                yield self._open(found.id, stored.pop(found.id, None))

    def _read(self, ids: Sequence[UUID]) -> dict[UUID, Exported]:
        statement = select(*_COLUMNS).where(deliveries.c.id.in_(ids), deliveries.c.pruned_at.is_(None))
        with store_faults(), one_statement(self._store) as connection:
            return {row.id: Exported(*row) for row in connection.execute(statement)}

    def _open(self, delivery_id: UUID, stored: Exported | None) -> Exported | None:
        if stored is None:
            self.pruned += 1
            return None
        try:
            return replace(stored, body=decompress(stored.body))
        except ValueError:
            self.damaged.append(delivery_id)
            return None


def _groups(found: Iterable[Found]) -> Iterator[list[Found]]:
    group, size = list[Found](), 0
    for each in found:
        size += each.body_bytes
        if group and (size > _MOST_BYTES or len(group) == _MOST):
            yield group
            group, size = [], each.body_bytes
        group.append(each)
    if group:
        yield group
