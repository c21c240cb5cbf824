"""The attempts at a delivery are kept unless the first one settles it, on every database."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, event, update

from app.clock import utc_now
from app.config.routes import Route
from app.database.engine import Database
from app.errors import SinkRefused, SinkUnavailable
from app.sinks.base import Batch, WriteResult
from app.store.delivery_attempts import MAX_KEPT, MAX_MESSAGE_LENGTH, read_attempts
from app.store.delivery_detail import read_delivery_detail
from app.store.delivery_filter import DeliveryFilter
from app.store.delivery_timeline import DeliveryEvent, build_timeline
from app.store.erasure import AccountData
from app.store.held import HeldDeliveries
from app.store.models import DeliveryAttempt, DeliveryResult, DeliveryState
from app.store.pending import PendingDeliveries
from app.store.replays import Replays
from app.store.results import DeliveryResults
from app.store.retention import prune_bodies
from app.store.schema import deliveries, sink_states
from tests.support.delivered_store import NOW, DeliveredStore
from tests.support.due import lease_due
from tests.support.replaced_sink import ReplacedSink
from tests.support.replays import begin_replay
from workers.delivery.processor import DeliveryProcessor
from workers.delivery.retry_policy import reschedule

MINUTE = timedelta(minutes=1)
RECORDS = [{"id": "1", "name": "Ada Lovelace"}]


@pytest.fixture
def delivered(store_url: str, tmp_path: Path) -> Iterator[DeliveredStore]:
    made = DeliveredStore(store_url, tmp_path, has_loads=False)
    yield made
    made.close()


@contextmanager
def record_statements(database: Database) -> Iterator[list[str]]:
    """Collect the statements that a store executes."""
    statements: list[str] = []

    def add(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", add)
    yield statements
    event.remove(database.engine, "before_cursor_execute", add)


def end_backoff(delivered: DeliveredStore, delivery: UUID) -> None:
    change = update(deliveries).where(deliveries.c.id == delivery)
    delivered.store.execute(change.values(leased_until=None, due_at=NOW))


class UnreachableSink:
    """A sink whose server does not answer."""

    error: SinkUnavailable = SinkUnavailable("the server refused the connection")

    def write(self, batch: Batch, route: Route) -> WriteResult:  # noqa: ARG002  # a Sink
        raise self.error

    def count(self, account: str) -> int:
        raise NotImplementedError

    def erase(self, account: str) -> int:
        raise NotImplementedError

    def close(self) -> None:
        pass


class RefusingSink(UnreachableSink):
    """A sink that rejects every batch of a table."""

    error = SinkRefused("sink_set_up", "a column is missing")


def fail(delivered: DeliveredStore, delivery: UUID) -> None:
    """Let one attempt fail, and end the backoff after it."""
    sinks = ReplacedSink(delivered.routes, "lake", UnreachableSink())
    # A new process: its breaker stays closed after a single failure.
    DeliveryProcessor(delivered.store, delivered.routes, sinks, name="worker").deliver([delivery])
    sinks.close()
    end_backoff(delivered, delivery)


def read_timeline(delivered: DeliveredStore, delivery: UUID) -> list[DeliveryEvent]:
    detail = read_delivery_detail(delivered.store, delivery)
    assert detail
    return build_timeline(detail, now=utc_now())


def make_attempt(delivery: UUID, number: int, message: str = "") -> DeliveryAttempt:
    at = NOW + number * MINUTE
    return DeliveryAttempt(delivery, number, "worker", at, at, DeliveryState.PENDING, "", message, at)


def save(delivered: DeliveredStore, delivery: UUID, number: int, message: str = "") -> None:
    """Save a failed attempt as a worker does."""
    [leased] = PendingDeliveries(delivered.store).lease(
        [delivery], worker="worker", now=NOW + number * MINUTE, lease_s=1
    )
    change = reschedule(leased, NOW + number * MINUTE, 0.0)
    result = DeliveryResult(change, attempt=make_attempt(delivery, number, message))
    DeliveryResults(delivered.store).save([result], now=NOW)


def test_a_delivery_that_its_first_attempt_settles_costs_nothing(delivered: DeliveredStore) -> None:
    delivered.deliver("warm up", records=RECORDS)
    first = delivered.put("1", records=RECORDS)

    with record_statements(delivered.store) as statements:
        delivered.worker.deliver([first])

    assert read_attempts(delivered.store, first) == []
    assert not [statement for statement in statements if "delivery_attempts" in statement]
    # One lease, and one change of the state.
    assert sum(statement.startswith("UPDATE rapidbridge_deliveries") for statement in statements) == 2


def test_failed_attempts_are_kept_with_their_cause_until_the_one_that_settles(
    delivered: DeliveredStore,
) -> None:
    delivered.deliver("warm up", records=RECORDS)
    delivery, before = delivered.put("1", records=RECORDS), utc_now()

    fail(delivered, delivery)
    fail(delivered, delivery)
    delivered.worker.deliver([delivery])

    first, second, last = read_attempts(delivered.store, delivery)
    assert (first.attempt, second.attempt, last.attempt) == (1, 2, 3)
    assert {first.worker, second.worker, last.worker} == {"worker"}
    assert (first.state, first.reason) == (second.state, second.reason) == ("pending", "sink_unavailable")
    assert first.message == "lake: the server refused the connection"
    assert "Ada" not in first.message
    assert first.started_at
    assert first.due_at
    assert before < first.started_at < first.finished_at < first.due_at
    assert (last.state, last.reason, last.message, last.due_at) == ("settled", "", "", None)


@pytest.mark.parametrize(
    ("payload", "state", "reason"),
    [
        ({"resource": "hr/people", "records": RECORDS}, "unrouted", "no_route"),
        ({"records": []}, "settled", ""),
        ({}, "quarantined", "no_records"),
    ],
)
def test_an_attempt_that_ends_otherwise_than_settled_is_kept(
    delivered: DeliveredStore, payload: dict[str, Any], state: str, reason: str
) -> None:
    delivery = delivered.deliver("1", **payload)

    kept = [(attempt.state, attempt.reason) for attempt in read_attempts(delivered.store, delivery)]
    assert kept == ([] if state == "settled" else [(state, reason)])


def test_the_attempt_of_a_lost_worker_is_kept_by_the_next_lease(delivered: DeliveredStore) -> None:
    lost, other = delivered.put("1", records=RECORDS), delivered.put("2", records=RECORDS)
    pending = PendingDeliveries(delivered.store)
    pending.lease([lost], worker="first", now=NOW, lease_s=40)
    pending.release_worker("first", now=NOW)
    [due] = [
        item for item in lease_due(delivered.store, now=NOW, limit=9, requeue_after_s=60) if item.id == lost
    ]
    assert due.lost_attempts == 1

    leased = pending.lease([lost, other], worker="second", now=NOW + MINUTE, lease_s=40)
    again = pending.lease([lost, other], worker="third", now=NOW + MINUTE, lease_s=40)

    assert {item.id: (item.attempts, item.lost_attempts) for item in leased} == {lost: (2, 1), other: (1, 0)}
    assert again == []
    assert read_attempts(delivered.store, lost) == [
        DeliveryAttempt(lost, 1, "first", None, NOW + MINUTE, DeliveryState.PENDING, "worker_lost")
    ]
    assert read_attempts(delivered.store, other) == []


def test_every_lost_worker_is_kept_until_the_delivery_is_dead(delivered: DeliveredStore) -> None:
    delivery = delivered.put("1", records=RECORDS)
    pending = PendingDeliveries(delivered.store)
    for number in range(3):
        pending.lease([delivery], worker=f"worker {number}", now=NOW + number * MINUTE, lease_s=40)

    delivered.worker.deliver([delivery])

    kept = read_attempts(delivered.store, delivery)
    assert [(item.attempt, item.worker, item.state, item.reason) for item in kept] == [
        (1, "worker 0", "pending", "worker_lost"),
        (2, "worker 1", "pending", "worker_lost"),
        (3, "worker 2", "pending", "worker_lost"),
        (4, "worker", "dead", "worker_lost"),
    ]


def test_only_the_newest_attempts_are_kept_and_messages_are_cut(delivered: DeliveredStore) -> None:
    delivery, other = delivered.put("1", records=RECORDS), delivered.put("2", records=RECORDS)
    save(delivered, other, 1)
    for number in range(1, MAX_KEPT + 6):
        save(delivered, delivery, number, "x" * 2000)

    kept = read_attempts(delivered.store, delivery)

    assert [attempt.attempt for attempt in kept] == [*range(6, MAX_KEPT + 6)]
    assert {len(attempt.message) for attempt in kept} == {MAX_MESSAGE_LENGTH}
    assert len(read_attempts(delivered.store, other)) == 1


def test_an_attempt_at_a_delivery_that_was_settled_meanwhile_is_not_kept(delivered: DeliveredStore) -> None:
    delivery = delivered.put("1", records=RECORDS)
    [leased] = PendingDeliveries(delivered.store).lease([delivery], worker="late", now=NOW, lease_s=1)
    delivered.worker.deliver([delivery])
    settled = read_attempts(delivered.store, delivery)

    late = DeliveryResult(reschedule(leased, NOW, 0.0), attempt=make_attempt(delivery, 9))
    assert DeliveryResults(delivered.store).save([late], now=NOW) == set()

    assert [attempt.worker for attempt in settled] == ["late", "worker"]
    assert read_attempts(delivered.store, delivery) == settled


def test_attempts_survive_a_replay_and_are_numbered_anew(delivered: DeliveredStore) -> None:
    delivery = delivered.deliver("1", resource="hr/people", records=RECORDS)
    replays = Replays(delivered.store)
    replay = begin_replay(delivered.store, now=utc_now())
    candidates = replays.find_candidates(DeliveryFilter(ids=[delivery]), after=None, limit=1)
    replays.requeue(replay, candidates, sink="", now=utc_now())

    delivered.worker.deliver([delivery])

    assert [(item.attempt, item.state) for item in read_attempts(delivered.store, delivery)] == [
        (1, "unrouted"),
        (2, "unrouted"),
    ]


def test_the_life_of_a_delivery_is_a_timeline(delivered: DeliveredStore) -> None:
    delivered.deliver("warm up", records=RECORDS)
    delivery = delivered.put("1", records=RECORDS)
    assert delivered.put("1", records=RECORDS) == delivery
    PendingDeliveries(delivered.store).lease([delivery], worker="lost", now=NOW, lease_s=1)
    fail(delivered, delivery)
    waiting = read_timeline(delivered, delivery)
    PendingDeliveries(delivered.store).lease([delivery], worker="w2", now=utc_now(), lease_s=60)
    leased = read_timeline(delivered, delivery)
    PendingDeliveries(delivered.store).release([delivery], worker="w2", now=NOW)
    delivered.worker.deliver([delivery])
    settled = read_timeline(delivered, delivery)
    prune_bodies(delivered.store, [delivery], now=utc_now())

    past = ["created at Truto", "received and stored", "attempt 1: its worker died", "attempt 2: failed"]
    titles = [entry.title for entry in waiting]
    assert [title for title in titles if not title.startswith("sink ")] == [
        *past,
        "waits for the next attempt",
    ]
    assert {"sink lake: failing", "sink main: done"} < {*titles}
    assert waiting[1].text == "1 duplicate arrived later"
    failed = next(entry for entry in waiting if entry.title == "attempt 2: failed")
    assert failed.text.startswith("a sink did not accept the delivery; lake: the server refused")
    assert failed.until
    assert (leased[-1].title, leased[-1].text, bool(leased[-1].until)) == ("leased", "by worker w2", True)
    assert [entry.title for entry in settled[-2:]] == ["attempt 3: settled", "settled"]
    assert [entry.at for entry in settled] == sorted(entry.at for entry in settled)
    assert [entry.title for entry in read_timeline(delivered, delivery)[-2:]] == ["settled", "body deleted"]
    assert "Ada" not in str([*waiting, *leased, *settled])


def test_a_held_delivery_spends_no_attempt_and_its_timeline_names_the_sink(delivered: DeliveredStore) -> None:
    delivered.deliver("warm up", records=RECORDS)
    delivery = delivered.put("1", records=RECORDS)
    sinks = ReplacedSink(delivered.routes, "lake", RefusingSink())
    DeliveryProcessor(delivered.store, delivered.routes, sinks, name="worker").deliver([delivery])
    sinks.close()
    held = read_timeline(delivered, delivery)
    HeldDeliveries(delivered.store).release("lake", "crm/contacts", limit=10, now=utc_now())
    # The breaker of the first worker is open for some seconds.
    delivered.store.execute(delete(sink_states))
    DeliveryProcessor(delivered.store, delivered.routes, delivered.sinks, name="worker").deliver([delivery])

    assert (held[-1].title, held[-1].text) == ("held", "until lake accepts deliveries again")
    assert read_timeline(delivered, delivery)[-1].title == "settled"
    assert read_attempts(delivered.store, delivery) == []


def test_pruning_and_erasure_delete_the_attempts_of_their_deliveries_only(delivered: DeliveredStore) -> None:
    delivered.deliver("warm up", records=RECORDS)
    pruned, erased, kept = (delivered.put(name, records=RECORDS) for name in "123")
    delivered.store.execute(
        update(deliveries).where(deliveries.c.id == erased).values(integrated_account_id="a2")
    )
    for delivery in (pruned, erased, kept):
        fail(delivered, delivery)
    delivered.worker.deliver([pruned])

    prune_bodies(delivered.store, [pruned, erased, kept], now=utc_now())
    for _ in AccountData(delivered.store, "a2", until=utc_now()).erase(now=utc_now()):
        pass

    remaining = {name: len(read_attempts(delivered.store, name)) for name in (pruned, erased, kept)}
    assert remaining == {pruned: 0, erased: 0, kept: 1}
