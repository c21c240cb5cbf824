"""Slow sinks: half of the workers do not write to them, and a worker that is alone rests from them."""

import pytest

from app.database.engine import Database
from app.store.sink_status import list_sink_statuses
from app.store.worker_registry import WorkerRecord, WorkerRegistry
from tests.contract.test_breaker import Clock
from workers.delivery.slow_sinks import SlowSinks


@pytest.fixture
def clock() -> Clock:
    return Clock()


def start(store: Database, clock: Clock, *names: str, has_others: bool = True) -> list[SlowSinks]:
    """Return the slow sinks of these workers."""
    registry = WorkerRegistry(store)
    for name in names:
        registry.record_heartbeat(WorkerRecord(name, clock.now, "{}", "d"), now=clock.now)
    return [
        SlowSinks(store, worker=name, has_others=has_others, clock=clock, monotonic=clock.monotonic)
        for name in names
    ]


def write(workers: list[SlowSinks], clock: Clock, took_s: float, times: int = 1) -> None:
    """Let every worker write to the sink at once, several times."""
    for _ in range(times):
        clock.advance(took_s)
        for worker in workers:
            worker.record_write("lake", took_s)


def list_writers(workers: list[SlowSinks]) -> list[bool]:
    return [worker.find_hold("lake") is None for worker in workers]


@pytest.mark.parametrize("number", [2, 3, 4, 7])
def test_half_of_the_workers_hold_the_deliveries_of_a_slow_sink(
    store: Database, clock: Clock, number: int
) -> None:
    workers = start(store, clock, *(f"w{place}" for place in range(number)))
    write(workers, clock, 1.0, times=2)
    assert all(list_writers(workers))

    write(workers, clock, 1.0)

    assert list_writers(workers).count(False) == number // 2
    hold = workers[0].find_hold("lake")
    assert hold
    assert (hold.scope, hold.reason) == ("(slow)", "sink_slow")
    assert all(worker.find_hold("main") is None for worker in workers)


def test_a_worker_that_is_alone_rests_as_long_as_a_write_took(store: Database, clock: Clock) -> None:
    [worker] = start(store, clock, "w")
    write([worker], clock, 4.0, times=3)

    clock.advance(3.9)
    assert worker.find_hold("lake") is not None
    clock.advance(0.2)
    assert worker.find_hold("lake") is None


def test_a_fast_write_ends_it(store: Database, clock: Clock) -> None:
    workers = start(store, clock, "w0", "w1")
    write(workers, clock, 2.0, times=3)
    assert list_writers(workers) == [False, True]

    write(workers, clock, 0.9)
    assert list_writers(workers) == [True, True]
    # Slow writes count in a row only.
    write(workers, clock, 2.0, times=2)
    assert list_writers(workers) == [True, True]


def test_a_worker_that_holds_its_deliveries_tries_the_sink_again_after_a_minute(
    store: Database, clock: Clock
) -> None:
    workers = start(store, clock, "w0", "w1")
    write(workers, clock, 2.0, times=3)
    clock.advance(59)
    start(store, clock, "w0", "w1")
    assert list_writers(workers) == [False, True]

    clock.advance(2)
    assert list_writers(workers) == [True, True]

    start(store, clock, "w0", "w1")
    write(workers, clock, 2.0)
    assert list_writers(workers) == [False, True]


def test_a_stopped_worker_counts_no_longer(store: Database, clock: Clock) -> None:
    workers = start(store, clock, "w0", "w1")
    write(workers, clock, 15.0, times=3)
    assert list_writers(workers) == [False, True]

    WorkerRegistry(store).remove("w1")
    clock.advance(11)

    # It is alone now, and rests from the sink for 15 s.
    assert list_writers(workers[:1]) == [False]
    clock.advance(10)
    assert list_writers(workers[:1]) == [True]


def test_the_only_sink_gets_all_workers(store: Database, clock: Clock) -> None:
    workers = start(store, clock, "w0", "w1", has_others=False)

    write(workers, clock, 5.0, times=5)

    assert list_writers(workers) == [True, True]
    assert list_sink_statuses(store) == []


def test_the_state_of_a_slow_sink_is_shown_and_ends(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("app.store.sink_status.utc_now", clock)
    workers = start(store, clock, "w0", "w1")
    write(workers, clock, 2.5, times=3)

    [status] = list_sink_statuses(store)
    assert (status.state, status.slow) == ("slow", "a write took 2.5 s")
    # It is no failure.
    assert status.failing_since is None

    clock.advance(61)
    [status] = list_sink_statuses(store)
    assert (status.state, status.slow) == ("ok", "")
