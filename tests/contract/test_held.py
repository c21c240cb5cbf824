"""Held deliveries: bounded releases in the order of arrival, by any number of processes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, update

from app.database.engine import Database
from app.store import bounded_count, sink_status
from app.store.bounded_count import BoundedCount
from app.store.erasure import AccountData
from app.store.held import HELD_FOR, SLOW_SCOPE, HeldDeliveries
from app.store.inbox import Inbox
from app.store.models import (
    DeliveryPriority,
    DeliveryResult,
    DeliveryState,
    IncomingDelivery,
    SinkOutcome,
    SinkOutcomeState,
    StateChange,
)
from app.store.pending import PendingDeliveries
from app.store.results import DeliveryResults
from app.store.schema import deliveries, sink_outcomes
from app.store.sink_states import SinkState, SinkStates
from app.store.sink_status import list_sink_statuses
from app.truto.events import Envelope
from tests.support.due import lease_due as lease_due_deliveries
from workers.background import releaser
from workers.background.releaser import Releaser

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)


@pytest.fixture
def held(store: Database) -> HeldDeliveries:
    return HeldDeliveries(store)


def hold(store: Database, number: int, *sinks: str, scope: str = "", state: str = "pending") -> UUID:
    """Store a delivery that its sinks hold. number: the seconds before now at which it was received."""
    received_at = NOW - timedelta(seconds=number)
    incoming = IncomingDelivery(b"{}", str(number).encode(), received_at, Envelope(event_id=str(number)))
    [receipt] = Inbox(store).put([incoming])
    id_ = receipt.delivery_id
    outcome = SinkOutcome(id_, "", SinkOutcomeState.FAILING, 0, 0, "sink_unavailable", "away", NOW)
    outcomes = [replace(outcome, sink=sink, held_scope=scope, held_received_at=received_at) for sink in sinks]
    due_at = NOW + HELD_FOR
    change = StateChange(id_, DeliveryState(state), 1, "sink_unavailable", due_at, is_attempt=False)
    DeliveryResults(store).save([DeliveryResult(change, outcomes=outcomes)], now=NOW)
    return id_


def lease_due(store: Database, limit: int = 100) -> list[UUID]:
    due = lease_due_deliveries(store, now=NOW, limit=limit, requeue_after_s=60)
    return [delivery.id for delivery in due]


def count_held(store: Database, sink: str = "lake") -> int:
    return sum(status.held.number for status in list_sink_statuses(store) if status.sink == sink)


def test_held_deliveries_are_not_due_and_are_released_in_the_order_of_arrival(
    store: Database, held: HeldDeliveries
) -> None:
    ids = [hold(store, number, "lake") for number in (1, 4, 2, 3)]
    assert lease_due(store) == []
    assert held.count("lake", "", limit=3) == (3, NOW - timedelta(seconds=4))

    assert held.release("lake", "", limit=2, now=NOW) == 2
    assert lease_due(store) == [ids[1], ids[3]]
    assert held.release("lake", "", limit=2, now=NOW) == 2
    assert lease_due(store) == [ids[2], ids[0]]
    assert held.release("lake", "", limit=2, now=NOW) == 0


def test_a_held_delivery_is_no_attempt_and_a_worker_can_lease_it_after_the_release(
    store: Database, held: HeldDeliveries
) -> None:
    id_ = hold(store, 1, "lake")
    pending = PendingDeliveries(store)
    assert pending.lease([id_], worker="w", now=NOW, lease_s=40) == []
    assert pending.make_all_due(now=NOW) == 0

    held.release("lake", "", limit=1, now=NOW)

    [leased] = pending.lease([id_], worker="w", now=NOW, lease_s=40)
    assert leased.reason == "sink_resumed"


def test_processes_that_release_together_release_each_delivery_once(
    store: Database, held: HeldDeliveries
) -> None:
    ids = {hold(store, number, "lake") for number in range(40)}

    with ThreadPoolExecutor(4) as processes:
        numbers = list(processes.map(lambda _: held.release("lake", "", limit=7, now=NOW), range(40)))

    assert sum(numbers) == 40
    assert set(lease_due(store)) == ids


def test_a_delivery_in_progress_is_not_made_due(store: Database, held: HeldDeliveries) -> None:
    id_ = hold(store, 1, "lake")
    until = NOW + timedelta(seconds=40)
    with store.transaction() as connection:
        connection.execute(update(deliveries).values(leased_by="w", leased_until=until, due_at=until))

    held.release("lake", "", limit=1, now=NOW)

    assert lease_due(store) == []
    [row] = store.read(select(deliveries.c.leased_until).where(deliveries.c.id == id_))
    assert row.leased_until == until


def test_a_settled_delivery_is_released_without_an_effect(store: Database, held: HeldDeliveries) -> None:
    hold(store, 1, "lake", state="dead")

    assert held.release("lake", "", limit=1, now=NOW) == 1

    assert lease_due(store) == []
    assert held.list_scopes("lake") == []


def test_a_worker_of_the_earlier_release_leaves_nothing_to_release(
    store: Database, held: HeldDeliveries
) -> None:
    hold(store, 1, "lake")
    with store.transaction() as connection:
        # It knows no columns of held deliveries.
        connection.execute(update(sink_outcomes).values(state="done", reason=""))
        connection.execute(update(deliveries).values(state="settled", settled_at=NOW))

    Releaser(store, clock=lambda: NOW).run_once()

    assert (held.list_sinks(), count_held(store), lease_due(store)) == ([], 0, [])


def test_an_erased_delivery_is_not_held(store: Database, held: HeldDeliveries) -> None:
    hold(store, 1, "lake")

    list(AccountData(store, "", until=NOW).erase(now=NOW))

    assert held.list_scopes("lake") == []


def test_each_scope_is_released_alone(store: Database, held: HeldDeliveries) -> None:
    whole, table = hold(store, 1, "lake"), hold(store, 2, "lake", scope="crm/contacts")
    hold(store, 3, "main")

    assert held.list_sinks() == ["lake", "main"]
    assert held.list_scopes("lake") == ["", "crm/contacts"]
    held.release("lake", "crm/contacts", limit=10, now=NOW)
    assert lease_due(store) == [table]
    held.release("lake", "", limit=10, now=NOW)
    assert lease_due(store) == [whole]


def test_a_hold_of_days_is_renewed_before_it_ends(store: Database, held: HeldDeliveries) -> None:
    hold(store, 1, "lake")
    assert held.renew(now=NOW) == 0

    later = NOW + HELD_FOR * 0.75
    assert held.renew(now=later) == 1

    due = lease_due_deliveries(store, now=NOW + HELD_FOR, limit=10, requeue_after_s=60)
    assert due == []


def test_held_deliveries_are_no_backlog_however_many_and_old(store: Database) -> None:
    pending = PendingDeliveries(store)
    for number in range(3600, 3610):
        hold(store, number, "lake")
    assert pending.find_oldest_received_at() is None
    received_at = NOW - timedelta(seconds=90)
    Inbox(store).put([IncomingDelivery(b"{}", b"x", received_at)])

    assert pending.find_oldest_received_at() == received_at


def test_the_releaser_leaves_what_is_paused_or_fails(store: Database) -> None:
    states = SinkStates(store)
    for number, sink in enumerate(("paused", "open", "working")):
        hold(store, number, sink)
    states.pause("paused", by="ada", reason="", now=NOW)
    retry_at = NOW + timedelta(seconds=60)
    states.record_failure(SinkState("open", retry_at=retry_at, failures=1, reason="r"), now=NOW)

    Releaser(store, clock=lambda: NOW).run_once()

    assert [count_held(store, sink) for sink in ("paused", "open", "working")] == [1, 1, 0]
    states.resume("paused")
    Releaser(store, clock=lambda: NOW).run_once()
    assert count_held(store, "paused") == 0


def test_a_bounded_number_is_released_ahead_of_the_workers(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releaser, "_MAX_RELEASED", 4)
    for number in range(10):
        hold(store, number, "lake")
    task = Releaser(store, clock=lambda: NOW)

    task.run_once()
    task.run_once()
    # Enqueued, and not processed yet.
    leased = lease_due(store)
    task.run_once()

    assert (len(leased), count_held(store)) == (4, 6)
    with store.transaction() as connection:
        settled = update(deliveries).where(deliveries.c.id.in_(leased))
        connection.execute(settled.values(state="settled", settled_at=NOW))
    task.run_once()
    assert count_held(store) == 2


def test_a_slow_sink_does_not_delay_the_release_of_another(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releaser, "_MAX_RELEASED", 6)
    for number in range(10):
        hold(store, number, "slow")
    task = Releaser(store, clock=lambda: NOW)
    task.run_once()
    assert count_held(store, "slow") == 4

    # Of the first ones, none was processed.
    ids = [hold(store, number, "fast") for number in (13, 11, 12, 14)]
    for _ in range(3):
        task.run_once()

    assert (count_held(store, "slow"), count_held(store, "fast")) == (4, 1)
    assert lease_due(store)[:3] == [ids[3], ids[0], ids[2]]


def test_fewer_deliveries_of_a_slow_sink_are_released_at_once(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releaser, "_MAX_RELEASED_SLOW", 2)
    for number in range(5):
        hold(store, number, "slow", scope=SLOW_SCOPE)
        hold(store, number + 10, "fast")
    SinkStates(store).record_slow("slow", until=NOW + timedelta(seconds=60), message="m")
    task = Releaser(store, clock=lambda: NOW)

    task.run_once()
    task.run_once()

    assert (count_held(store, "slow"), count_held(store, "fast")) == (3, 0)
    # It is fast again: no write was slow for a minute.
    Releaser(store, clock=lambda: NOW + timedelta(seconds=61)).run_once()
    assert count_held(store, "slow") == 0


def test_replayed_deliveries_do_not_delay_the_release_of_live_ones(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releaser, "_MAX_RELEASED", 3)
    for number in range(100, 110):
        hold(store, number, "lake")
    store.execute(update(deliveries).values(priority=DeliveryPriority.REPLAYED))
    live = [hold(store, number, "lake") for number in (4, 3, 2, 1)]
    task = Releaser(store, clock=lambda: NOW)

    task.run_once()
    task.run_once()

    assert count_held(store) == 8
    assert lease_due(store) == live[:3]
    settled = update(deliveries).where(deliveries.c.id.in_(live))
    store.execute(settled.values(state="settled", settled_at=NOW))
    task.run_once()
    assert count_held(store) == 7


def test_tables_of_one_sink_are_released_in_turn(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releaser, "_MAX_RELEASED", 1)
    scopes = ("", "crm/a", "crm/b")
    for first, scope in enumerate(scopes):
        for number in range(first, 12, 3):
            hold(store, number, "lake", scope=scope)
    task = Releaser(store, clock=lambda: NOW)

    for _ in range(6):
        task.run_once()
        processed = update(deliveries).where(deliveries.c.id.in_(lease_due(store)))
        store.execute(processed.values(state="settled", settled_at=NOW))

    assert [HeldDeliveries(store).count("lake", scope, limit=9)[0] for scope in scopes] == [2, 2, 2]


def test_a_table_of_a_failing_sink_is_released_as_its_trial(store: Database) -> None:
    for number in range(10):
        hold(store, number, "lake", scope="crm/contacts")
    states, task = SinkStates(store), Releaser(store, clock=lambda: NOW)
    failure = SinkState("lake", retry_at=NOW + timedelta(seconds=5), failures=1, reason="r")
    states.record_failure(failure, now=NOW)

    task.run_once()
    assert count_held(store) == 10
    states.record_failure(replace(failure, retry_at=NOW), now=NOW)
    task.run_once()
    assert count_held(store) == 9


def test_a_trial_is_one_delivery_and_more_only_if_no_worker_tries_the_sink(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releaser, "_TRIAL_INTERVAL_S", 0.0)
    for number in range(10):
        hold(store, number, "lake")
    states, task = SinkStates(store), Releaser(store, clock=lambda: NOW)
    failure = SinkState("lake", retry_at=NOW, failures=1, reason="r")
    states.record_failure(failure, now=NOW)

    task.run_once()
    assert count_held(store) == 9
    # The trial failed.
    states.record_failure(replace(failure, failures=2), now=NOW)
    task.run_once()
    assert count_held(store) == 8
    # No worker reports anything: the routes name another sink.
    for left in (6, 2, 0):
        task.run_once()
        assert count_held(store) == left


def test_a_breaker_that_nothing_waits_for_is_closed(store: Database) -> None:
    states = SinkStates(store)
    states.record_failure(SinkState("gone", retry_at=NOW, failures=1, reason="r"), now=NOW)

    Releaser(store, clock=lambda: NOW + timedelta(seconds=20)).run_once()
    assert [state.open_since for state in states.list()] == [NOW]

    Releaser(store, clock=lambda: NOW + timedelta(seconds=40)).run_once()
    assert [state.open_since for state in states.list()] == [None]


def test_the_status_of_a_sink_names_the_failure_that_a_person_has_to_correct(store: Database) -> None:
    states = SinkStates(store)
    later = NOW + timedelta(seconds=5)
    states.record_failure(SinkState("lake", retry_at=later, failures=1, reason="sink_unavailable"), now=NOW)
    table = SinkState("lake", "t", retry_at=later, failures=1, reason="sink_set_up", message="column zip")
    states.record_failure(table, now=later)
    states.record_writes({"lake": NOW})
    hold(store, 7, "lake")
    hold(store, 9, "lake", scope="t")

    [status] = list_sink_statuses(store, ["lake"])

    assert (status.state, status.failing_since) == ("failing", NOW)
    assert (status.reason, status.message) == ("sink_set_up", "column zip")
    assert (status.held, status.retried, status.last_write_at) == (BoundedCount(2), BoundedCount(0), NOW)
    assert status.lag_s(NOW) == 9
    assert status.last_failure_at == later


def test_a_delivery_that_waits_for_two_sinks_is_held_until_both_accept_it(
    store: Database, held: HeldDeliveries
) -> None:
    hold(store, 1, "lake", "main")

    held.release("lake", "", limit=1, now=NOW)

    reasons = _read_reasons(store)
    assert reasons == [("lake", "sink_resumed", None), ("main", "sink_unavailable", "")]


def _read_reasons(store: Database) -> Sequence[tuple[str, str, str | None]]:
    columns = (sink_outcomes.c.sink, sink_outcomes.c.reason, sink_outcomes.c.held_scope)
    return [tuple(row) for row in store.read(select(*columns).order_by(sink_outcomes.c.sink))]


def test_counts_of_a_sink_that_stop_at_their_limit_say_so(
    store: Database, held: HeldDeliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, scope in enumerate(("", "t", "t")):
        hold(store, number, "lake", scope=scope)
    for number in range(5, 8):
        hold(store, number, "main", state="dead" if number == 7 else "pending")
    held.release("main", "", limit=9, now=NOW)
    exact = {status.sink: status for status in list_sink_statuses(store)}
    for module, name in (
        (bounded_count, "COUNT_LIMIT"),
        (sink_status, "COUNT_LIMIT"),
        (sink_status, "_MAX_RETRIED"),
    ):
        monkeypatch.setattr(module, name, 2)

    cut = {status.sink: status for status in list_sink_statuses(store)}

    assert (str(exact["lake"].held), str(exact["main"].retried)) == ("3", "2")
    assert (str(cut["lake"].held), str(cut["lake"].waiting)) == ("2+", "2+")
    # One of the three is dead and keeps its outcome: some of the counted ones may be.
    assert not cut["main"].retried.is_exact
    monkeypatch.setattr(sink_status, "_MAX_RETRIED", 3)
    assert str(list_sink_statuses(store)[1].retried) == "2"
