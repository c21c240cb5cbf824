"""The body of a delivery is read in parts, on every database."""

import os
import tracemalloc
import zlib
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from app.database.engine import Database
from app.encryption import EncryptionKey, Keyring
from app.store.schema import deliveries
from app.store.stored_body import PART_BYTES, read_body_start, stream_body
from tests.support.seeded_store import SeededStore

# Random text hardly shrinks: the stored body is nearly as large.
LARGE = b'{"payload": "' + os.urandom(15 * 1024 * 1024 + 512 * 1024).hex().encode() + b'"}'
KIB_64 = 64 * 1024


@pytest.fixture
def seeded(store: Database) -> SeededStore:
    return SeededStore(store, "")


def set_stored(seeded: SeededStore, delivery: UUID, stored: bytes) -> None:
    change = update(deliveries).where(deliveries.c.id == delivery)
    seeded.store.execute(change.values(body=stored))


@pytest.mark.parametrize(
    "keyring", [Keyring(), Keyring((EncryptionKey.build(b"k" * 32),))], ids=["plain", "encrypted"]
)
def test_a_body_of_31_mb_is_streamed_unchanged_in_little_memory(
    seeded: SeededStore, keyring: Keyring
) -> None:
    seeded.store.keyring = keyring
    delivery = seeded.put(body=LARGE)
    view, position = memoryview(LARGE), 0

    tracemalloc.start()
    for part in stream_body(seeded.store, delivery):
        assert len(part) <= PART_BYTES
        assert part == view[position : position + len(part)]
        position += len(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert position == len(LARGE) > 30 * 1024 * 1024
    assert peak < 4 * 1024 * 1024


@pytest.mark.parametrize("body", [LARGE, b"x" * len(LARGE)], ids=["random", "uniform"])
def test_the_start_of_a_large_body_is_read_alone(seeded: SeededStore, body: bytes) -> None:
    delivery = seeded.put(body=body)

    tracemalloc.start()
    start = read_body_start(seeded.store, delivery, max_bytes=KIB_64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert start == body[:KIB_64]
    assert peak < 4 * 1024 * 1024


@pytest.mark.parametrize(
    "body", [b"{}", b"x" * KIB_64, os.urandom(PART_BYTES - 9), os.urandom(PART_BYTES * 2)]
)
def test_small_bodies_are_read_completely(seeded: SeededStore, body: bytes) -> None:
    delivery = seeded.put(body=body)

    assert b"".join(stream_body(seeded.store, delivery)) == body
    assert read_body_start(seeded.store, delivery, max_bytes=KIB_64) == body[:KIB_64]
    # As earlier releases stored them.
    set_stored(seeded, delivery, zlib.compress(body, 1))
    assert b"".join(stream_body(seeded.store, delivery)) == body


def test_bodies_that_are_gone_or_damaged_are_no_text(seeded: SeededStore) -> None:
    pruned, damaged, cut = seeded.put(), seeded.put(), seeded.put(body=os.urandom(PART_BYTES * 2))
    seeded.prune(pruned)
    set_stored(seeded, damaged, b"\x28\xb5\x2f\xfdrubbish")
    stored = seeded.read_row(cut)["body"]
    set_stored(seeded, cut, stored[:PART_BYTES])

    assert list(stream_body(seeded.store, pruned)) == []
    assert list(stream_body(seeded.store, uuid4())) == []
    assert read_body_start(seeded.store, pruned, max_bytes=9) == b""
    for delivery in (damaged, cut):
        with pytest.raises(ValueError, match="the stored body is damaged"):
            list(stream_body(seeded.store, delivery))
