"""What is kept no longer: bodies of deliveries that are finished and old, and their records as they came."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from typing import Self
from uuid import UUID

from sqlalchemy import Connection, and_, bindparam, func, select, tuple_, update

from app.database.engine import Database
from app.store.archive import Archive
from app.store.models import DeliveryState, PrunableDelivery
from app.store.schema import dead_records, deliveries, record_errors

# What needs nobody any more. All others are kept whole, however old.
FINISHED_STATES = (DeliveryState.SETTLED, DeliveryState.REFUSED, DeliveryState.DISCARDED)
# Spelled out, so that both databases know it for the condition of an index.
_IS_PRUNABLE = and_(
    deliveries.c.pruned_at.is_(None),
    deliveries.c.state.in_(
        bindparam("finished", list(FINISHED_STATES), expanding=True, literal_execute=True)
    ),
)
_STORED_BYTES = func.length(deliveries.c.body)
# What one transaction removes.
PAGE = 500


@dataclass(frozen=True, slots=True)
class PruneCounts:
    """What was removed. stored_bytes: of bodies, compressed. dead_records, record_errors: blanked ones."""

    deliveries: int = 0
    stored_bytes: int = 0
    dead_records: int = 0
    record_errors: int = 0

    def __add__(self, other: Self) -> "PruneCounts":
        names = [field.name for field in fields(self)]
        return PruneCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})


def count_prunable(database: Database, *, before: datetime) -> PruneCounts:
    """Count what `remove` would remove of the deliveries that came before then; raises StoreUnavailable."""
    is_prunable = (_IS_PRUNABLE, deliveries.c.received_at < before)
    size = select(func.count(), func.coalesce(func.sum(_STORED_BYTES), 0)).where(*is_prunable)
    prunable_ids = select(deliveries.c.id).where(*is_prunable)
    [(delivery_count, stored_bytes)] = database.read(size)
    raw_counts = [
        database.read(select(func.count()).where(table.c.raw != "", table.c.delivery_id.in_(prunable_ids)))
        for table in (dead_records, record_errors)
    ]
    return PruneCounts(delivery_count, int(stored_bytes), *(rows[0][0] for rows in raw_counts))


def find_prunable(
    database: Database, *, before: datetime, after: tuple[datetime, UUID] | None = None, limit: int = PAGE
) -> list[PrunableDelivery]:
    """Return the next deliveries to prune, oldest first; raises StoreUnavailable.

    after: (received_at, id) of the last one seen; what was pruned before it is not met again.
    """
    columns = (deliveries.c.id, deliveries.c.received_at, deliveries.c.body_bytes, _STORED_BYTES)
    place = (deliveries.c.received_at, deliveries.c.id)
    statement = select(*columns).where(_IS_PRUNABLE, deliveries.c.received_at < before)
    if after:
        statement = statement.where(tuple_(*place) > after)
    return [PrunableDelivery(*row) for row in database.read(statement.order_by(*place).limit(limit))]


def prune_bodies(database: Database, ids: Sequence[UUID], *, now: datetime) -> PruneCounts:
    """Empty the bodies of these deliveries, and what of them stands elsewhere; raises StoreUnavailable.

    The rows stay, with their outcomes. Left out is what another has in hand, or what is finished no more.
    """
    with database.transaction() as connection:
        sizes = _lock_prunable(connection, ids)
        if not sizes:
            return PruneCounts()
        these = list(sizes)
        connection.execute(
            update(deliveries).where(deliveries.c.id.in_(these)).values(body=b"", pruned_at=now)
        )
        blanked = [
            connection.execute(
                update(table).where(table.c.delivery_id.in_(these), table.c.raw != "").values(raw="")
            ).rowcount
            for table in (dead_records, record_errors)
        ]
    return PruneCounts(len(these), sum(sizes.values()), *blanked)


def _lock_prunable(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the sizes of those that may still be pruned; none of them changes until the transaction ends."""
    statement = (
        select(deliveries.c.id, _STORED_BYTES)
        .where(deliveries.c.id.in_(ids), _IS_PRUNABLE)
        .order_by(deliveries.c.id)
        # Another pruner's share: nobody waits for anybody.
        .with_for_update(skip_locked=True)
    )
    return {row.id: row[1] for row in connection.execute(statement)}


# What is archived at once and held in memory: no more than this, and one body.
_MAX_CHUNK_BYTES = 16 * 1024 * 1024


def prune(
    database: Database, *, before: datetime, archive: Archive | None = None, clock: Callable[[], datetime]
) -> Iterator[PruneCounts]:
    """Remove the bodies of finished deliveries that came before then; yields what each page had.

    Any number may do so at once, at any time, and be broken off anywhere: the next one goes on. Nothing is
    removed that the archive does not hold. Raises StoreUnavailable and ArchiveUnavailable.
    """
    after: tuple[datetime, UUID] | None = None
    while True:
        with archive.lock() if archive else nullcontext():
            prunable = find_prunable(database, before=before, after=after, limit=PAGE)
            page = _take_chunk(prunable) if archive else prunable
            ids = archive.write(database, page) if archive and page else [delivery.id for delivery in page]
            removed = prune_bodies(database, ids, now=clock()) if ids else PruneCounts()
        yield removed
        if len(page) == len(prunable) < PAGE:
            return
        after = (page[-1].received_at, page[-1].id)


def _take_chunk(prunable: Sequence[PrunableDelivery]) -> Sequence[PrunableDelivery]:
    """Return the first of them, as many as came on one day and fit into memory together."""
    size, chunk = 0, list[PrunableDelivery]()
    for delivery in prunable:
        size += delivery.body_bytes
        if chunk and (size > _MAX_CHUNK_BYTES or _get_received_day(delivery) != _get_received_day(chunk[0])):
            break
        chunk.append(delivery)
    return chunk


def _get_received_day(delivery: PrunableDelivery) -> date:
    return delivery.received_at.astimezone(UTC).date()
