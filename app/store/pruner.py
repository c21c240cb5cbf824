"""Prunes the inbox a page at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, date, datetime
from uuid import UUID

from app.database.engine import Store
from app.store.archive import Archive
from app.store.retention import PAGE, PrunableDelivery, PruneCounts, find_prunable, prune_bodies

# What is archived at once and held in memory: no more than this, and one body.
_MAX_CHUNK_BYTES = 16 * 1024 * 1024


def prune(
    store: Store, *, before: datetime, archive: Archive | None = None, clock: Callable[[], datetime]
) -> Iterator[PruneCounts]:
    """Remove the bodies of finished deliveries that came before then; yields what each page had.

    Any number may do so at once, at any time, and be broken off anywhere: the next one goes on. Nothing is
    removed that the archive does not hold. Raises StoreUnavailable and ArchiveUnavailable.
    """
    after: tuple[datetime, UUID] | None = None
    while True:
        with archive.lock() if archive else nullcontext():
            prunable = find_prunable(store, before=before, after=after, limit=PAGE)
            page = _take_chunk(prunable) if archive else prunable
            ids = archive.write(store, page) if archive and page else [delivery.id for delivery in page]
            removed = prune_bodies(store, ids, now=clock()) if ids else PruneCounts()
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
