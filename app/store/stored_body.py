"""The stored body of a delivery, read in parts: memory does not depend on its size."""

from collections.abc import Iterator
from uuid import UUID

from sqlalchemy import LargeBinary, func, select

from app.database.engine import Database
from app.store.compression import decompress_parts
from app.store.schema import deliveries

# A compressed block has at most 128 KiB and becomes at most as much: the first part has 64 KiB of the body.
PART_BYTES = 256 * 1024


def stream_body(database: Database, delivery_id: UUID) -> Iterator[bytes]:
    """Yield the body of a delivery in parts of at most PART_BYTES; nothing if it was deleted.

    Raises ValueError if the stored body is damaged, and StoreUnavailable.
    """
    return decompress_parts(_read_stored_parts(database, delivery_id), max_bytes=PART_BYTES)


def read_body_start(database: Database, delivery_id: UUID, *, max_bytes: int) -> bytes:
    """Return the first bytes of a body, without reading the rest; raises as `stream_body` does.

    max_bytes: at most 64 KiB.
    """
    start = b""
    for part in stream_body(database, delivery_id):
        start += part
        if len(start) >= max_bytes:
            break
    return start[:max_bytes]


def _read_stored_parts(database: Database, delivery_id: UUID) -> Iterator[bytes]:
    offset = 1
    while True:
        part = func.substr(deliveries.c.body, offset, PART_BYTES, type_=LargeBinary)
        rows = database.read(select(part).where(deliveries.c.id == delivery_id))
        if not rows or not rows[0][0]:
            return
        stored = bytes(rows[0][0])
        yield stored
        if len(stored) < PART_BYTES:
            return
        offset += PART_BYTES
