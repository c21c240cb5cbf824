"""The stored body of a delivery: compressed, and encrypted if a key is set.

Reading raises EncryptionKeyMissing without the key of a body.
"""

from collections.abc import Iterator, Sequence
from uuid import UUID

from sqlalchemy import LargeBinary, func, select

from app.database.engine import Database
from app.encryption import Keyring
from app.errors import BodyPruned
from app.store.compression import compress, decompress, decompress_parts
from app.store.reasons import Reason
from app.store.schema import deliveries

# A compressed block has at most 128 KiB and becomes at most as much: the first part has 64 KiB of the body.
PART_BYTES = 256 * 1024


def encode_bodies(keyring: Keyring, ids: Sequence[UUID], bodies: Sequence[bytes]) -> list[bytes]:
    """Return bodies as they are stored. ids: of their deliveries."""
    compressed = compress(bodies)
    if keyring.current is None:
        return compressed
    return [keyring.encrypt(body, build_body_context(id_)) for id_, body in zip(ids, compressed, strict=True)]


def decode_body(keyring: Keyring, delivery_id: UUID, stored: bytes) -> bytes:
    """Return the original of a stored body; raises BodyPruned, or ValueError if it is damaged."""
    if not stored:
        raise BodyPruned(
            Reason.PRUNED, f"delivery {delivery_id}: its body was removed; it cannot be read again"
        )
    return decompress(keyring.decrypt(stored, build_body_context(delivery_id)))


def build_body_context(delivery_id: UUID) -> bytes:
    """Return the context in which the body of a delivery is encrypted; see Keyring."""
    return b"delivery body " + delivery_id.bytes


def stream_body(database: Database, delivery_id: UUID) -> Iterator[bytes]:
    """Yield the body of a delivery in parts of at most PART_BYTES; nothing if it was deleted.

    Memory does not depend on its size. Raises ValueError if the stored body is damaged, and StoreUnavailable.
    """
    stored = _read_stored_parts(database, delivery_id)
    compressed = database.keyring.decrypt_parts(stored, build_body_context(delivery_id))
    return decompress_parts(compressed, max_bytes=PART_BYTES)


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
