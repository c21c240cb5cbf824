"""Retention: prune the bodies of old, finished deliveries."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Self
from uuid import UUID

from sqlalchemy import Connection, and_, bindparam, func, select, tuple_, update

from app.database.engine import Database
from app.store.archive import Archive
from app.store.delivery_attempts import delete_attempts
from app.store.models import DeliveryState, PrunableDelivery
from app.store.schema import dead_records, deliveries, record_errors

# Deliveries in other states keep their bodies, however old: they may still be replayed.
FINISHED_STATES = (DeliveryState.SETTLED, DeliveryState.REFUSED, DeliveryState.DISCARDED)
# Rendered as literals: a database uses a partial index only for a query that repeats its condition.
_IS_PRUNABLE = and_(
    deliveries.c.pruned_at.is_(None),
    deliveries.c.state.in_(
        bindparam("finished_states", list(FINISHED_STATES), expanding=True, literal_execute=True)
    ),
)
_STORED_BYTES = func.length(deliveries.c.body)
# The deliveries of one transaction.
PAGE = 500


@dataclass(frozen=True, slots=True)
class PruneCounts:
    """Numbers of pruned rows. stored_bytes: of compressed bodies. dead_records, record_errors: emptied."""

    deliveries: int = 0
    stored_bytes: int = 0
    dead_records: int = 0
    record_errors: int = 0

    def __add__(self, other: Self) -> "PruneCounts":
        names = [field.name for field in fields(self)]
        return PruneCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})


def compute_cutoff(retention_days: int, *, now: datetime) -> datetime | None:
    """Return the time before which finished deliveries are pruned; None if they are kept forever."""
    return now - timedelta(days=retention_days) if retention_days else None


def count_prunable(database: Database, *, before: datetime) -> PruneCounts:
    """Count what pruning the deliveries received before a time would remove; raises StoreUnavailable."""
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

    after: (received_at, id) of the delivery to continue after.
    """
    columns = (deliveries.c.id, deliveries.c.received_at, deliveries.c.body_bytes, _STORED_BYTES)
    order = (deliveries.c.received_at, deliveries.c.id)
    statement = select(*columns).where(_IS_PRUNABLE, deliveries.c.received_at < before)
    if after:
        statement = statement.where(tuple_(*order) > after)
    return [PrunableDelivery(*row) for row in database.read(statement.order_by(*order).limit(limit))]


def prune_bodies(database: Database, ids: Sequence[UUID], *, now: datetime) -> PruneCounts:
    """Empty the bodies, dead records and record errors of these deliveries; raises StoreUnavailable.

    Their attempts are deleted; the rows and their outcomes stay. Deliveries that another process prunes or
    requeued are skipped.
    """
    with database.transaction() as connection:
        sizes = _lock_prunable(connection, ids)
        if not sizes:
            return PruneCounts()
        locked_ids = list(sizes)
        connection.execute(
            update(deliveries).where(deliveries.c.id.in_(locked_ids)).values(body=b"", pruned_at=now)
        )
        delete_attempts(connection, locked_ids)
        emptied = [
            connection.execute(
                update(table).where(table.c.delivery_id.in_(locked_ids), table.c.raw != "").values(raw="")
            ).rowcount
            for table in (dead_records, record_errors)
        ]
    return PruneCounts(len(locked_ids), sum(sizes.values()), *emptied)


def _lock_prunable(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, int]:
    """Lock the deliveries that may still be pruned; return their sizes by id."""
    statement = (
        select(deliveries.c.id, _STORED_BYTES)
        .where(deliveries.c.id.in_(ids), _IS_PRUNABLE)
        .order_by(deliveries.c.id)
        # Rows locked by another pruner are pruned there.
        .with_for_update(skip_locked=True)
    )
    return {row.id: row[1] for row in connection.execute(statement)}


# Limit of one archived chunk in memory; the last body may exceed it.
_MAX_CHUNK_BYTES = 16 * 1024 * 1024


def prune(
    database: Database, *, before: datetime, archive: Archive | None = None, clock: Callable[[], datetime]
) -> Iterator[PruneCounts]:
    """Prune finished deliveries received before a time; yield the counts of each page.

    May run in several processes at once, and may be interrupted at any time. With an archive, only archived
    bodies are removed. Raises StoreUnavailable and ArchiveUnavailable.
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
    """Return the first deliveries that were received on one day and fit into memory together."""
    size, chunk = 0, list[PrunableDelivery]()
    for delivery in prunable:
        size += delivery.body_bytes
        if chunk and (size > _MAX_CHUNK_BYTES or _get_received_day(delivery) != _get_received_day(chunk[0])):
            break
        chunk.append(delivery)
    return chunk


def _get_received_day(delivery: PrunableDelivery) -> date:
    return delivery.received_at.astimezone(UTC).date()
