"""Prunes the inbox a page at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, date, datetime
from uuid import UUID

from app.database.engine import Store
from app.store.archive import Archive
from app.store.retention import PAGE, Old, Pruned, find_old, remove

# What is archived at once and held in memory: no more than this, and one body.
_MOST_BYTES = 16 * 1024 * 1024


def prune(
    store: Store, *, before: datetime, archive: Archive | None = None, clock: Callable[[], datetime]
) -> Iterator[Pruned]:
    """Remove the bodies of finished deliveries that came before then; yields what each page had.

    Any number may do so at once, at any time, and be broken off anywhere: the next one goes on. Nothing is
    removed that the archive does not hold. Raises StoreUnavailable and ArchiveUnavailable.
    """
    after: tuple[datetime, UUID] | None = None
    while True:
        with archive.turn() if archive else nullcontext():
            found = find_old(store, before=before, after=after, most=PAGE)
            page = _chunk(found) if archive else found
            ids = archive.write(store, page) if archive and page else [old.id for old in page]
            removed = remove(store, ids, now=clock()) if ids else Pruned()
        yield removed
        if len(page) == len(found) < PAGE:
            return
        after = (page[-1].received_at, page[-1].id)


def _chunk(found: Sequence[Old]) -> Sequence[Old]:
    """Return the first of them, as many as came on one day and fit into memory together."""
    size, chunk = 0, list[Old]()
    for old in found:
        size += old.body_bytes
        if chunk and (size > _MOST_BYTES or _day(old) != _day(chunk[0])):
            break
        chunk.append(old)
    return chunk


def _day(old: Old) -> date:
    return old.received_at.astimezone(UTC).date()
