"""Room for large bodies: bounded, given back whatever happens, and never a deadlock."""

import random

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from app.web.memory_budget import MemoryBudget, Reservation

BODY = 4
BUDGET_BYTES = 2 * BODY
# Longer than any of this takes: whoever waits so long waits for good.
STUCK_S = 60.0


class Reader:
    """A greenlet that takes room step by step, each time it is told to, and ends when told to end."""

    def __init__(self, budget: MemoryBudget) -> None:
        self.taken = 0
        self._room = budget
        self._wanted = 0
        self._told = Event()
        self._is_ending = False
        self.share = Reservation(budget)
        self.greenlet = gevent.spawn(self._run)

    def take(self, count: int) -> None:
        """Take so many bytes more, or wait for them."""
        self._wanted += count
        self._told.set()
        let_all_run()

    def end(self) -> None:
        """Give everything back."""
        self._is_ending = True
        self._told.set()
        self.greenlet.join(STUCK_S)
        let_all_run()

    def _run(self) -> None:
        with self.share as share:
            while not self._is_ending:
                self._told.wait()
                self._told.clear()
                while self.taken < self._wanted:
                    share.acquire(1)
                    self.taken += 1


def let_all_run() -> None:
    """Return when no greenlet can go on by itself: each of them waits for another."""
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
    """All is given back: the room itself, and the place beyond it."""
    assert budget.reserved_bytes == 0
    # Two bodies one after the other, each larger than the room: only the place beyond it lets them through.
    for _ in range(2):
        with gevent.Timeout(STUCK_S):
            read_whole(budget, BUDGET_BYTES + BODY)
    assert budget.reserved_bytes == 0


def test_within_the_room_nobody_waits() -> None:
    room = MemoryBudget(BUDGET_BYTES)
    readers = [Reader(room) for _ in range(2)]

    for reader in readers:
        reader.take(BODY)

    assert [reader.taken for reader in readers] == [BODY, BODY]
    for reader in readers:
        reader.end()
    assert_is_empty(room)


def test_beyond_the_room_one_is_read_on_and_the_others_wait() -> None:
    room = MemoryBudget(BUDGET_BYTES)
    readers = [Reader(room) for _ in range(6)]
    for reader in readers[:2]:
        reader.take(BODY)

    for reader in readers[2:]:
        reader.take(BODY)

    assert [reader.taken for reader in readers] == [BODY, BODY, BODY, 0, 0, 0]
    assert [reader.share.is_waiting for reader in readers] == [False] * 3 + [True] * 3
    for reader in readers:
        reader.end()
    assert_is_empty(room)


def test_room_that_is_given_back_is_taken_by_who_waits() -> None:
    room = MemoryBudget(BUDGET_BYTES)
    first, second, beyond, waiting = (Reader(room) for _ in range(4))
    for reader in (first, second, beyond, waiting):
        reader.take(BODY)
    assert waiting.taken == 0

    # The one beyond the room stalls: that must hold up nobody for whom there is room.
    first.end()
    assert waiting.taken == 0
    second.end()

    assert waiting.taken == BODY
    assert not waiting.share.is_waiting
    beyond.end()
    waiting.end()
    assert_is_empty(room)


def test_the_place_beyond_the_room_goes_to_the_next() -> None:
    room = MemoryBudget(BUDGET_BYTES)
    first, beyond, waiting, later = (Reader(room) for _ in range(4))
    first.take(BUDGET_BYTES)
    for reader in (beyond, waiting, later):
        reader.take(BODY)

    beyond.end()

    assert [waiting.taken, later.taken] == [BODY, 0]
    for reader in (first, waiting, later):
        reader.end()
    assert_is_empty(room)


def test_many_half_read_bodies_all_get_to_their_end() -> None:
    room = MemoryBudget(BUDGET_BYTES)

    # Each takes a step, then lets the others take theirs: all are half read when the room is full.
    readers = [gevent.spawn(read_whole, room, BODY) for _ in range(100)]

    assert len(gevent.joinall(readers, timeout=STUCK_S)) == len(readers)
    assert all(reader.successful() for reader in readers)
    assert_is_empty(room)


def test_a_body_larger_than_the_room_gets_to_its_end() -> None:
    room = MemoryBudget(BUDGET_BYTES)

    with gevent.Timeout(STUCK_S):
        read_whole(room, 3 * BUDGET_BYTES)

    assert_is_empty(room)


def test_what_is_taken_never_exceeds_the_room_and_one_body() -> None:
    room = MemoryBudget(BUDGET_BYTES)
    most = 0

    def read() -> None:
        nonlocal most
        with Reservation(room) as share:
            for _ in range(BODY):
                share.acquire(1)
                most = max(most, room.reserved_bytes)
                gevent.sleep(0)

    gevent.joinall([gevent.spawn(read) for _ in range(50)], timeout=STUCK_S, raise_error=True)

    assert BUDGET_BYTES < most <= BUDGET_BYTES + BODY


@pytest.mark.parametrize("way", ["killed", "timeout"])
def test_who_gives_up_waiting_gives_back_what_it_had(way: str) -> None:
    room = MemoryBudget(BUDGET_BYTES)
    half_read, full, beyond = (Reader(room) for _ in range(3))
    half_read.take(1)
    full.take(BUDGET_BYTES - 1)
    beyond.take(BODY)
    half_read.take(1)
    assert half_read.share.is_waiting

    if way == "killed":
        half_read.greenlet.kill()
    else:
        half_read.greenlet.kill(gevent.Timeout(0))

    assert room.reserved_bytes == BUDGET_BYTES - 1 + BODY
    full.end()
    beyond.end()
    assert_is_empty(room)


@pytest.mark.parametrize("way", ["killed", "timeout"])
def test_who_dies_beyond_the_room_takes_nobody_along(way: str) -> None:
    room = MemoryBudget(BUDGET_BYTES)
    full, beyond, waiting = (Reader(room) for _ in range(3))
    full.take(BUDGET_BYTES)
    beyond.take(1)
    waiting.take(BODY)
    assert waiting.taken == 0

    beyond.greenlet.kill(gevent.Timeout(0) if way == "timeout" else gevent.GreenletExit)
    let_all_run()

    assert waiting.taken == BODY
    waiting.end()
    full.end()
    assert_is_empty(room)


def test_the_place_beyond_is_not_lost_on_one_who_is_killed_as_it_comes_free() -> None:
    room = MemoryBudget(BUDGET_BYTES)
    full, beyond, unlucky, waiting = (Reader(room) for _ in range(4))
    full.take(BUDGET_BYTES)
    for reader in (beyond, unlucky, waiting):
        reader.take(BODY)

    # In one breath: neither runs in between.
    beyond.greenlet.kill(block=False)
    unlucky.greenlet.kill(block=False)
    let_all_run()

    assert waiting.taken == BODY
    waiting.end()
    full.end()
    assert_is_empty(room)


@given(sizes=st.lists(st.integers(0, BUDGET_BYTES + BODY), max_size=20), seed=st.integers(0, 2**32))
def test_whatever_breaks_off_the_room_is_empty_in_the_end(sizes: list[int], seed: int) -> None:
    room = MemoryBudget(BUDGET_BYTES)
    chance = random.Random(seed)

    def read(size: int) -> None:
        try:
            with gevent.Timeout(STUCK_S, False):
                read_whole(room, size, chance)
        except ConnectionResetError:
            pass

    readers = [gevent.spawn(read, size) for size in sizes]
    gevent.sleep(0)
    for reader in chance.sample(readers, len(readers) // 4):
        reader.kill(block=False)

    assert len(gevent.joinall(readers, timeout=STUCK_S)) == len(readers)
    assert_is_empty(room)
