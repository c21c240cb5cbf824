"""The memory budget of large bodies: bounded, always released, never a deadlock."""

import random

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Overloaded
from app.web.memory_budget import MemoryBudget, Reservation

BODY = 4
BUDGET_BYTES = 2 * BODY
# Longer than any of these tests takes: a greenlet that waits longer is stuck.
STUCK_S = 60.0


class Reader:
    """A greenlet that reserves bytes on request, and releases them at `end`."""

    def __init__(self, budget: MemoryBudget) -> None:
        self.taken = 0
        self._wanted = 0
        self._requested = Event()
        self._is_ending = False
        self.share = Reservation(budget)
        self.greenlet = gevent.spawn(self._run)

    def take(self, count: int) -> None:
        """Reserve more bytes, or wait for them."""
        self._wanted += count
        self._requested.set()
        let_all_run()

    def end(self) -> None:
        """Release all bytes."""
        self._is_ending = True
        self._requested.set()
        self.greenlet.join(STUCK_S)
        let_all_run()

    def _run(self) -> None:
        with self.share as share:
            while not self._is_ending:
                self._requested.wait()
                self._requested.clear()
                while self.taken < self._wanted:
                    share.acquire(1)
                    self.taken += 1


def let_all_run() -> None:
    """Return when every greenlet waits for another."""
    for _ in range(4):
        gevent.idle()


def read_whole(budget: MemoryBudget, size: int, chance: random.Random | None = None) -> None:
    with Reservation(budget) as share:
        for _ in range(size):
            share.acquire(1)
            gevent.sleep(0)
            if chance is not None and chance.random() < 0.1:
                raise ConnectionResetError


def assert_is_empty(budget: MemoryBudget) -> None:
    """Check that all bytes are released, and the one place beyond the budget as well."""
    assert budget.reserved_bytes == 0
    # Two bodies in turn, both larger than the budget: only the place beyond it lets them through.
    for _ in range(2):
        with gevent.Timeout(STUCK_S):
            read_whole(budget, BUDGET_BYTES + BODY)
    assert budget.reserved_bytes == 0


def test_within_the_budget_no_body_waits() -> None:
    budget = MemoryBudget(BUDGET_BYTES)
    readers = [Reader(budget) for _ in range(2)]

    for reader in readers:
        reader.take(BODY)

    assert [reader.taken for reader in readers] == [BODY, BODY]
    for reader in readers:
        reader.end()
    assert_is_empty(budget)


def test_beyond_the_budget_one_body_is_read_and_the_others_wait() -> None:
    budget = MemoryBudget(BUDGET_BYTES)
    readers = [Reader(budget) for _ in range(6)]
    for reader in readers[:2]:
        reader.take(BODY)

    for reader in readers[2:]:
        reader.take(BODY)

    assert [reader.taken for reader in readers] == [BODY, BODY, BODY, 0, 0, 0]
    assert [reader.share.is_waiting for reader in readers] == [False] * 3 + [True] * 3
    for reader in readers:
        reader.end()
    assert_is_empty(budget)


def test_released_memory_goes_to_a_waiting_body() -> None:
    budget = MemoryBudget(BUDGET_BYTES)
    first, second, beyond, waiting = (Reader(budget) for _ in range(4))
    for reader in (first, second, beyond, waiting):
        reader.take(BODY)
    assert waiting.taken == 0

    # The body beyond the budget stalls: it must not delay a body that fits into the budget.
    first.end()
    assert waiting.taken == 0
    second.end()

    assert waiting.taken == BODY
    assert not waiting.share.is_waiting
    beyond.end()
    waiting.end()
    assert_is_empty(budget)


def test_the_place_beyond_the_budget_goes_to_the_next_body() -> None:
    budget = MemoryBudget(BUDGET_BYTES)
    first, beyond, waiting, later = (Reader(budget) for _ in range(4))
    first.take(BUDGET_BYTES)
    for reader in (beyond, waiting, later):
        reader.take(BODY)

    beyond.end()

    assert [waiting.taken, later.taken] == [BODY, 0]
    for reader in (first, waiting, later):
        reader.end()
    assert_is_empty(budget)


def test_many_half_read_bodies_are_all_read_to_the_end() -> None:
    budget = MemoryBudget(BUDGET_BYTES)

    # The greenlets take turns step by step: all bodies are half read when the budget is full.
    readers = [gevent.spawn(read_whole, budget, BODY) for _ in range(100)]

    assert len(gevent.joinall(readers, timeout=STUCK_S)) == len(readers)
    assert all(reader.successful() for reader in readers)
    assert_is_empty(budget)


def test_a_body_larger_than_the_budget_is_read_to_the_end() -> None:
    budget = MemoryBudget(BUDGET_BYTES)

    with gevent.Timeout(STUCK_S):
        read_whole(budget, 3 * BUDGET_BYTES)

    assert_is_empty(budget)


def test_reserved_memory_never_exceeds_the_budget_and_one_body() -> None:
    budget = MemoryBudget(BUDGET_BYTES)
    peak_bytes = 0

    def read() -> None:
        nonlocal peak_bytes
        with Reservation(budget) as share:
            for _ in range(BODY):
                share.acquire(1)
                peak_bytes = max(peak_bytes, budget.reserved_bytes)
                gevent.sleep(0)

    gevent.joinall([gevent.spawn(read) for _ in range(50)], timeout=STUCK_S, raise_error=True)

    assert BUDGET_BYTES < peak_bytes <= BUDGET_BYTES + BODY


@pytest.mark.parametrize("way", ["killed", "timeout"])
def test_a_body_that_stops_waiting_releases_its_memory(way: str) -> None:
    budget = MemoryBudget(BUDGET_BYTES)
    half_read, full, beyond = (Reader(budget) for _ in range(3))
    half_read.take(1)
    full.take(BUDGET_BYTES - 1)
    beyond.take(BODY)
    half_read.take(1)
    assert half_read.share.is_waiting

    if way == "killed":
        half_read.greenlet.kill()
    else:
        half_read.greenlet.kill(gevent.Timeout(0))

    assert budget.reserved_bytes == BUDGET_BYTES - 1 + BODY
    full.end()
    beyond.end()
    assert_is_empty(budget)


@pytest.mark.parametrize("way", ["killed", "timeout"])
def test_a_body_killed_beyond_the_budget_blocks_no_other(way: str) -> None:
    budget = MemoryBudget(BUDGET_BYTES)
    full, beyond, waiting = (Reader(budget) for _ in range(3))
    full.take(BUDGET_BYTES)
    beyond.take(1)
    waiting.take(BODY)
    assert waiting.taken == 0

    beyond.greenlet.kill(gevent.Timeout(0) if way == "timeout" else gevent.GreenletExit)
    let_all_run()

    assert waiting.taken == BODY
    waiting.end()
    full.end()
    assert_is_empty(budget)


def test_the_place_beyond_the_budget_is_not_lost_with_a_body_killed_as_it_becomes_free() -> None:
    budget = MemoryBudget(BUDGET_BYTES)
    full, beyond, killed, waiting = (Reader(budget) for _ in range(4))
    full.take(BUDGET_BYTES)
    for reader in (beyond, killed, waiting):
        reader.take(BODY)

    # Both are killed before either runs.
    beyond.greenlet.kill(block=False)
    killed.greenlet.kill(block=False)
    let_all_run()

    assert waiting.taken == BODY
    waiting.end()
    full.end()
    assert_is_empty(budget)


@given(sizes=st.lists(st.integers(0, BUDGET_BYTES + BODY), max_size=20), seed=st.integers(0, 2**32))
def test_after_any_interruptions_the_budget_is_empty(sizes: list[int], seed: int) -> None:
    budget = MemoryBudget(BUDGET_BYTES)
    chance = random.Random(seed)

    def read(size: int) -> None:
        try:
            with gevent.Timeout(STUCK_S, False):
                read_whole(budget, size, chance)
        except ConnectionResetError:
            pass

    readers = [gevent.spawn(read, size) for size in sizes]
    gevent.sleep(0)
    for reader in chance.sample(readers, len(readers) // 4):
        reader.kill(block=False)

    assert len(gevent.joinall(readers, timeout=STUCK_S)) == len(readers)
    assert_is_empty(budget)


def test_a_cancelled_body_stops_waiting_and_leaves_its_memory() -> None:
    budget = MemoryBudget(BUDGET_BYTES)
    with Reservation(budget) as first, Reservation(budget) as second:
        first.acquire(BUDGET_BYTES)
        second.acquire(1)
        with Reservation(budget) as waiting:
            gevent.spawn_later(0, waiting.cancel)
            with pytest.raises(Overloaded):
                waiting.acquire(1)

    assert budget.reserved_bytes == 0


def test_a_body_without_a_reservation_wakes_no_other() -> None:
    budget = MemoryBudget(BUDGET_BYTES)
    wakes = 0

    def wait() -> None:
        nonlocal wakes
        budget.wait_for_release()
        wakes += 1

    waiting = gevent.spawn(wait)
    let_all_run()

    with Reservation(budget):
        pass
    let_all_run()
    assert wakes == 0

    with Reservation(budget) as reservation:
        reservation.acquire(1)
    waiting.join(STUCK_S)
    assert wakes == 1
