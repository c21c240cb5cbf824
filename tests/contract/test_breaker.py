"""The breaker of a sink: it opens after failures, tries one delivery at a time, and closes."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from app.database.engine import Database
from app.errors import JobTimeout, SinkRefused, SinkUnavailable
from app.store.sink_states import SinkStates
from workers.delivery.breaker import SinkBreaker

AWAY = SinkUnavailable("the server is away")
TABLE = "crm/contacts"


class Clock:
    """The time of all workers."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 26, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.now.timestamp()

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(store: Database, clock: Clock) -> SinkBreaker:
    return make_breaker(store, clock)


def make_breaker(store: Database, clock: Clock) -> SinkBreaker:
    return SinkBreaker(store, clock=clock, monotonic=clock.monotonic)


def fail(
    breaker: SinkBreaker,
    error: SinkUnavailable | JobTimeout = AWAY,
    *,
    took_s: float = 0.1,
    delivery: int = 1,
) -> tuple[str, bool]:
    """Return the reason of a failed write, and whether the delivery is held."""
    reason, hold = breaker.record_failure("lake", TABLE, error, delivery_id=UUID(int=delivery), took_s=took_s)
    return reason, hold is not None


def is_held(breaker: SinkBreaker, table: str = TABLE) -> bool:
    return breaker.find_hold("lake", table) is not None


def test_three_failures_in_a_row_hold_the_deliveries_of_every_worker(
    store: Database, breaker: SinkBreaker, clock: Clock
) -> None:
    assert [fail(breaker) for _ in range(3)] == [
        ("sink_unavailable", False),
        ("sink_unavailable", False),
        ("sink_unavailable", True),
    ]

    hold = make_breaker(store, clock).find_hold("lake", "another table")
    assert hold
    assert (hold.scope, hold.reason) == ("", "sink_unavailable")
    assert "the server is away" in hold.message
    assert make_breaker(store, clock).find_hold("main", TABLE) is None


def test_a_success_in_between_shows_that_the_sink_works(breaker: SinkBreaker) -> None:
    for _ in range(5):
        assert fail(breaker) == ("sink_unavailable", False)
        assert fail(breaker) == ("sink_unavailable", False)
        breaker.record_success("lake", TABLE)

    assert not is_held(breaker)


def test_one_slow_failure_is_enough_and_is_tried_rarely(breaker: SinkBreaker, clock: Clock) -> None:
    assert fail(breaker, JobTimeout("stalled"), took_s=18) == ("sink_unavailable", True)

    clock.advance(71)
    assert is_held(breaker)
    clock.advance(2)
    assert not is_held(breaker)


def test_a_sink_that_names_a_wait_is_left_alone_until_then(breaker: SinkBreaker, clock: Clock) -> None:
    busy = SinkUnavailable("429", retry_after_s=300)

    assert fail(breaker, busy) == ("sink_unavailable", True)

    clock.advance(299)
    assert is_held(breaker)
    clock.advance(2)
    assert not is_held(breaker)


def test_a_batch_that_takes_too_long_is_the_deliverys_own_fault_unless_another_does_too(
    breaker: SinkBreaker,
) -> None:
    slow = SinkUnavailable("a lock", is_batch_timeout=True)

    for _ in range(3):
        assert fail(breaker, slow, took_s=15, delivery=1) == ("batch_timeout", False)
    assert fail(breaker, JobTimeout("cut off"), took_s=14, delivery=1) == ("batch_timeout", False)
    assert not is_held(breaker)

    assert fail(breaker, slow, took_s=15, delivery=2) == ("sink_unavailable", True)


def test_a_refused_table_holds_only_its_own_deliveries(breaker: SinkBreaker, clock: Clock) -> None:
    assert fail(breaker, SinkRefused("sink_set_up", "column zip")) == ("sink_set_up", True)

    clock.advance(1)
    assert is_held(breaker)
    assert not is_held(breaker, "crm/deals")
    breaker.record_success("lake", "crm/deals")
    assert is_held(breaker)


def test_a_refused_table_does_not_use_up_the_trial_of_its_sink(breaker: SinkBreaker, clock: Clock) -> None:
    for _ in range(3):
        fail(breaker)
    clock.advance(1)
    fail(breaker, SinkRefused("sink_set_up", "column zip"))
    clock.advance(4.5)

    assert is_held(breaker)
    assert not is_held(breaker, "crm/deals")


def test_a_trial_that_one_table_refuses_closes_the_breaker_of_the_whole_sink(
    store: Database, breaker: SinkBreaker, clock: Clock
) -> None:
    for _ in range(3):
        fail(breaker)
    clock.advance(6)
    assert not is_held(breaker)

    assert fail(breaker, SinkRefused("sink_set_up", "column zip")) == ("sink_set_up", True)

    assert not is_held(make_breaker(store, clock), "crm/deals")
    assert not is_held(breaker, "crm/deals")
    assert is_held(breaker)


def test_a_refusal_in_between_shows_that_the_sink_answers(breaker: SinkBreaker) -> None:
    for _ in range(3):
        assert fail(breaker) == ("sink_unavailable", False)
        assert fail(breaker) == ("sink_unavailable", False)
        assert fail(breaker, SinkRefused("sink_set_up", "column zip")) == ("sink_set_up", True)

    assert not is_held(breaker, "crm/deals")


def test_trials_come_at_growing_intervals_and_one_worker_has_each(
    store: Database, breaker: SinkBreaker, clock: Clock
) -> None:
    other = make_breaker(store, clock)
    for _ in range(3):
        fail(breaker)
    waits = []
    for _ in range(6):
        waited = 0
        while is_held(breaker):
            clock.advance(1)
            waited += 1
        waits.append(waited)
        assert is_held(other)
        assert fail(breaker) == ("sink_unavailable", True)

    assert waits == [5, 10, 20, 40, 60, 60]


def test_the_first_success_closes_the_breaker_for_every_worker(
    store: Database, breaker: SinkBreaker, clock: Clock
) -> None:
    other = make_breaker(store, clock)
    for _ in range(3):
        fail(breaker)
    assert is_held(other)
    clock.advance(6)
    assert not is_held(breaker)

    breaker.record_success("lake", TABLE)

    assert not is_held(breaker)
    clock.advance(1)
    assert not is_held(other)
    # It begins anew.
    assert fail(breaker) == ("sink_unavailable", False)


def test_a_worker_that_dies_during_a_trial_delays_the_next_one(
    store: Database, breaker: SinkBreaker, clock: Clock
) -> None:
    for _ in range(3):
        fail(breaker)
    clock.advance(6)
    assert not is_held(breaker)

    other = make_breaker(store, clock)
    assert is_held(other)
    clock.advance(31)
    assert not is_held(other)


def test_a_pause_holds_without_trials_and_ends_within_a_second(
    store: Database, breaker: SinkBreaker, clock: Clock
) -> None:
    SinkStates(store).pause("lake", by="ada", reason="a move", now=clock.now)
    clock.advance(3600)
    hold = breaker.find_hold("lake", TABLE)
    assert hold
    assert (hold.reason, hold.message) == ("sink_paused", "the sink is paused: a move")

    SinkStates(store).resume("lake")
    clock.advance(1)

    assert not is_held(breaker)


def test_without_the_store_a_worker_relies_on_its_own_failures(
    store: Database, breaker: SinkBreaker, clock: Clock
) -> None:
    assert not is_held(breaker)
    with store.transaction() as connection:
        connection.execute(text("ALTER TABLE rapidbridge_sink_states RENAME TO away"))
    clock.advance(2)

    assert not is_held(breaker)
    assert [fail(breaker)[1] for _ in range(3)] == [False, False, True]
    clock.advance(2)
    assert is_held(breaker)
    breaker.save_writes()
    clock.advance(4)
    assert not is_held(breaker)
    breaker.record_success("lake", TABLE)
    breaker.save_writes()
    assert not is_held(breaker)


def test_writes_are_stored_every_few_seconds_at_most(
    store: Database, breaker: SinkBreaker, clock: Clock
) -> None:
    started = clock.now
    breaker.record_success("lake", TABLE)
    breaker.save_writes()
    clock.advance(4)
    breaker.record_success("lake", TABLE)
    breaker.save_writes()
    assert [state.last_write_at for state in SinkStates(store).list()] == [started]

    clock.advance(1)
    breaker.save_writes()

    assert [state.last_write_at for state in SinkStates(store).list()] == [started + timedelta(seconds=4)]
