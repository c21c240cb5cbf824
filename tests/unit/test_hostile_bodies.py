"""The time and the memory to read an envelope do not depend on the shape of the body."""

import gc
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress

import pytest

from app.errors import UnreadableDelivery
from app.truto.events import read_envelope, read_payload
from app.truto.record_errors import read_record_errors
from tests.support.hostile_bodies import SHAPES, build_body

MIB = 1024 * 1024
MAX_STEP_CPU_S = 0.1


@pytest.fixture(autouse=True)
def frozen_objects() -> Iterator[None]:
    """Keep the objects of all other tests out of collections, as a web process does with its modules."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Pauses:
    """Measures the CPU time between two pauses."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._started_at = time.thread_time()

    def pause(self) -> None:
        self.longest_s = max(self.longest_s, time.thread_time() - self._started_at)
        self._started_at = time.thread_time()


def read_quietly(body: bytes, pauses: Pauses) -> None:
    with suppress(UnreadableDelivery):
        read_envelope(body, pauses.pause)
    pauses.pause()


@pytest.mark.parametrize("shape", SHAPES)
def test_an_envelope_is_read_in_short_steps(shape: str) -> None:
    body = build_body(shape, 2 * MIB)
    pauses, started_at = Pauses(), time.thread_time()

    read_quietly(body, pauses)

    assert pauses.longest_s < MAX_STEP_CPU_S
    assert time.thread_time() - started_at < 4


@pytest.mark.parametrize("shape", SHAPES)
def test_an_envelope_needs_little_memory(shape: str) -> None:
    body = build_body(shape, MIB)

    tracemalloc.start()
    try:
        read_quietly(body, Pauses())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Parsing at most 256 KiB at a time, each byte of it may become an object.
    assert peak_bytes < 16 * MIB


@pytest.mark.parametrize(
    "shape",
    ["resources of a run", "arrays without an end", "objects in a run", "distinct members in the payload"],
)
def test_a_run_is_read_in_short_steps(shape: str) -> None:
    body = build_body(shape, 8 * MIB)
    pauses = Pauses()

    read_payload(body, 256 * 1024, pauses.pause)
    pauses.pause()

    assert pauses.longest_s < MAX_STEP_CPU_S


def test_an_error_with_many_members_needs_little_memory() -> None:
    body = build_body("distinct members in errors", 8 * MIB)

    tracemalloc.start()
    try:
        [error] = read_record_errors(body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(error.raw) > 7 * MIB
    # The text itself and its copy, and 10,000 members.
    assert peak_bytes < 32 * MIB
