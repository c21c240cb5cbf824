"""The states of sinks that all workers share, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.database.engine import Database
from app.store.sink_states import SinkState, SinkStates

NOW = datetime(2026, 11, 26, 10, tzinfo=UTC)
FAILURE = SinkState("lake", retry_at=NOW + timedelta(seconds=5), failures=1, reason="r", message="away")
LEASE = timedelta(seconds=30)


@pytest.fixture
def states(store: Database) -> SinkStates:
    return SinkStates(store)


def read(states: SinkStates) -> SinkState:
    [state] = states.list()
    return state


def test_a_sink_is_paused_once_and_resumed_once(states: SinkStates) -> None:
    assert states.pause("lake", by="ada", reason="a move", now=NOW)
    assert not states.pause("lake", by="bob", reason="another", now=NOW + LEASE)
    assert read(states) == SinkState("lake", paused_at=NOW, paused_by="ada", pause_reason="a move")

    assert states.resume("lake")
    assert not states.resume("lake")
    assert not states.resume("unknown")
    assert read(states) == SinkState("lake")


def test_workers_that_open_a_breaker_together_count_one_failure(states: SinkStates) -> None:
    states.record_failure(FAILURE, now=NOW)
    states.record_failure(replace(FAILURE, message="still away"), now=NOW + timedelta(seconds=1))

    state = read(states)
    assert (state.open_since, state.failures, state.message) == (NOW, 1, "still away")
    assert state.last_failure_at == NOW + timedelta(seconds=1)


def test_one_of_many_workers_claims_a_trial_and_the_next_one_if_it_dies(states: SinkStates) -> None:
    states.record_failure(FAILURE, now=NOW)
    assert not states.claim_trial(FAILURE, now=NOW, lease=LEASE)

    due = NOW + timedelta(seconds=5)
    with ThreadPoolExecutor(4) as workers:
        claims = list(workers.map(lambda _: states.claim_trial(FAILURE, now=due, lease=LEASE), range(8)))

    assert claims.count(True) == 1
    assert states.claim_trial(FAILURE, now=due + LEASE, lease=LEASE)


def test_a_closed_breaker_leaves_the_pause_and_a_closed_table_nothing(states: SinkStates) -> None:
    states.pause("lake", by="ada", reason="", now=NOW)
    states.record_failure(FAILURE, now=NOW)
    states.record_failure(replace(FAILURE, scope="crm/contacts"), now=NOW)

    assert states.close(FAILURE)
    assert states.close(replace(FAILURE, scope="crm/contacts"))
    assert not states.close(FAILURE)
    assert not states.claim_trial(FAILURE, now=NOW + LEASE, lease=LEASE)

    assert read(states) == SinkState("lake", paused_at=NOW, paused_by="ada", last_failure_at=NOW)


def test_a_breaker_is_not_abandoned_if_a_worker_tries_its_sink_meanwhile(states: SinkStates) -> None:
    states.record_failure(FAILURE, now=NOW)
    before = read(states)
    assert states.claim_trial(before, now=NOW + timedelta(seconds=40), lease=LEASE)

    assert not states.close_abandoned(before)

    after = read(states)
    assert (after.open_since, after.retry_at) == (NOW, NOW + timedelta(seconds=70))
    assert states.close_abandoned(after)
    assert read(states).open_since is None


def test_the_time_of_the_last_write_never_goes_back(states: SinkStates) -> None:
    states.record_writes({"lake": NOW})
    states.record_writes({"lake": NOW - LEASE})

    assert read(states).last_write_at == NOW


def test_a_long_message_is_cut(states: SinkStates) -> None:
    states.record_failure(replace(FAILURE, message="x" * 5000), now=NOW)

    assert read(states).message == "x" * 1000
