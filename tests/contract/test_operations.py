"""Operations are started once, leased by one process, and done exactly once, on every database."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.event import listen

from app.config.delivery_config import DeliveryConfig
from app.config.routes import Routes
from app.database.engine import Database, open_database
from app.errors import OperationRefused, StoreUnavailable
from app.replay import executor as executors
from app.replay.executor import OperationExecutor
from app.replay.failure_set import FailureSet
from app.replay.operations import OperationRequest, cancel_operation, start_discard, start_replay
from app.replay.request import ReplayRequest
from app.store.bounded_count import BoundedCount
from app.store.delivery_filter import DeliveryFilter, FailureCause
from app.store.discards import DiscardableSet
from app.store.migrate import migrate
from app.store.operations import LEASE_S, MAX_UNFINISHED, Operation, Operations
from app.store.replays import Replays
from app.store.schema import dead_records, deliveries, operations, replays
from tests.support.crashing_operation import BATCH_SIZE
from tests.support.replays import BY_TEST, begin_replay, execute
from tests.support.seeded_store import SeededStore
from tests.support.waiting import wait_until
from tests.support.web_process import ROOT
from workers.background.operation_runner import OperationRunner
from workers.background.retention import Pruner

CONFIG = DeliveryConfig.build(Routes(sinks={}, routes=()), late_records="deliver", to_open_run=False)
FAILED = DeliveryFilter(states=("dead",))


@pytest.fixture
def seeded(store: Database, store_url: str) -> SeededStore:
    return SeededStore(store, store_url)


def start(store: Database, delivery_filter: DeliveryFilter = FAILED, *, restart: bool = False) -> Operation:
    request = ReplayRequest(delivery_filter)
    return start_replay(store, request, requester=BY_TEST, config=CONFIG, restart=restart)


def put_copies(seeded: SeededStore, number: int) -> None:
    """Put so many dead deliveries, received second by second until an hour ago."""
    seeded.put("dead", "x")
    with seeded.store.transaction() as connection:
        row = connection.execute(deliveries.select()).mappings().one()
        copies = [
            dict(row) | {"id": uuid4(), "received_at": row["received_at"] - timedelta(seconds=second)}
            for second in range(1, number)
        ]
        connection.execute(insert(deliveries), copies)


def count_states(store: Database) -> dict[str, int]:
    statement = select(deliveries.c.state, func.count()).group_by(deliveries.c.state)
    return {row[0]: row[1] for row in store.read(statement)}


def test_the_same_request_of_two_people_at_once_is_one_operation(seeded: SeededStore) -> None:
    seeded.put("dead", "x")

    with ThreadPoolExecutor(8) as pool:
        started = list(pool.map(lambda _: start(seeded.store), range(16)))

    assert len({operation.id for operation in started}) == 1
    assert len(Operations(seeded.store).list_newest(limit=50)) == 1
    assert len(seeded.store.read(select(operations.c.id))) == 1


def test_another_request_is_another_operation(seeded: SeededStore) -> None:
    started = {
        start(seeded.store).id,
        start(seeded.store, DeliveryFilter(states=("late",))).id,
        start_discard(seeded.store, FAILED, because="x", requester=BY_TEST).id,
        start_discard(seeded.store, FAILED, because="y", requester=BY_TEST).id,
        start(seeded.store, restart=True).id,
    }

    assert len(started) == 5
    states = [operation.state for operation in Operations(seeded.store).list_newest(limit=9)]
    assert sorted(states) == ["cancelled", *["queued"] * 4]


def test_an_ended_request_can_be_started_again(seeded: SeededStore) -> None:
    first = execute(seeded.store, start(seeded.store))
    second = start(seeded.store)

    assert (first.state, first.total) == ("finished", 0)
    assert second.id != first.id


def test_an_unfinished_replay_of_an_earlier_release_continues_after_its_cursor(seeded: SeededStore) -> None:
    put_copies(seeded, 30)
    key = ReplayRequest(FAILED).key
    began_at = datetime.now(UTC) - timedelta(minutes=1)
    earlier = begin_replay(seeded.store, key, now=began_at)
    replays = Replays(seeded.store)
    candidates = replays.find_candidates(FAILED, after=None, limit=10)
    replays.requeue(earlier, candidates, sink="", now=began_at)

    operation = start(seeded.store)
    execute(seeded.store, operation)

    assert (operation.id, operation.requested_at) == (earlier.id, began_at)
    assert count_states(seeded.store) == {"pending": 30}
    replay = replays.get(earlier.id)
    assert replay
    assert replay.requeued_deliveries == 30


def test_only_one_process_has_the_lease_until_it_ends(seeded: SeededStore) -> None:
    store, now = Operations(seeded.store), datetime.now(UTC)
    operation = start(seeded.store)

    with ThreadPoolExecutor(8) as pool:
        leases = list(
            pool.map(lambda name: store.lease(operation.id, owner=f"process {name}", now=now), range(8))
        )

    [leased] = [lease for lease in leases if lease]
    later = now + timedelta(seconds=LEASE_S + 1)
    assert leased.state == "running"
    assert store.lease(operation.id, owner=leased.leased_by, now=now)
    assert store.lease(operation.id, owner="another", now=later)
    store.release(operation.id, owner="another")
    assert store.lease(operation.id, owner="a third", now=later)


def test_a_process_that_lost_its_lease_changes_nothing(seeded: SeededStore) -> None:
    store, now = Operations(seeded.store), datetime.now(UTC)
    started = start(seeded.store)
    lost = store.lease(started.id, owner="stalled", now=now)
    later = now + timedelta(seconds=LEASE_S + 1)
    leased = store.lease(started.id, owner="successor", now=later)
    assert lost
    assert leased

    store.save_progress(leased, done=7, total=9)
    store.save_progress(lost, done=2, total=3)
    has_ended = store.finish(lost, now=later, error="TypeError")

    current = store.get(started.id)
    replay = Replays(seeded.store).get(started.id)
    assert not has_ended
    assert current
    assert (current.state, current.done, current.total, current.error) == ("running", 7, 9, "")
    assert replay
    assert not replay.is_finished
    assert store.finish(leased, now=later)


def test_a_fault_of_a_process_that_lost_its_lease_does_not_fail_the_operation(
    seeded: SeededStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded.put("dead", "x")
    operation = start_discard(seeded.store, FAILED, because="x", requester=BY_TEST)
    after_lease = datetime.now(UTC) + timedelta(seconds=LEASE_S + 1)

    def lose_lease(_set: DiscardableSet, operation: Operation, **_: object) -> bool:
        assert Operations(seeded.store).lease(operation.id, owner="successor", now=after_lease)
        raise TypeError

    with monkeypatch.context() as patch:
        patch.setattr(DiscardableSet, "discard_page", lose_lease)
        assert not OperationExecutor(seeded.store, owner="stalled").run_slice(operation.id)

    successor = OperationExecutor(seeded.store, owner="successor", clock=lambda: after_lease)
    while successor.run_slice(operation.id):
        continue
    ended = Operations(seeded.store).get(operation.id)
    assert ended
    assert (ended.state, ended.done, ended.error) == ("finished", 1, "")


def test_a_request_that_ends_while_it_is_started_again_does_not_deadlock(postgres_url: str) -> None:
    ending, starting = open_database(postgres_url), open_database(postgres_url)
    migrate(starting)
    operation = start(starting)
    is_ending = Event()

    def wait_for_start(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE rapidbridge_operations"):
            is_ending.set()
            blocked = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            wait_until(lambda: starting.read(blocked)[0][0] == 1)

    listen(ending.engine, "after_cursor_execute", wait_for_start)
    with ThreadPoolExecutor(2) as pool:
        ended = pool.submit(cancel_operation, ending, operation.id)
        assert is_ending.wait(timeout=30)
        started = pool.submit(start, starting)

        assert ended.result(timeout=30)
        assert started.result(timeout=30).id != operation.id
    replay = Replays(starting).get(operation.id)
    assert replay
    assert replay.is_finished
    ending.close()
    starting.close()


def test_an_operation_whose_statements_time_out_does_not_block_the_others(
    seeded: SeededStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded.put("dead", "x")
    slow, other = (
        start_discard(seeded.store, FAILED, because=because, requester=BY_TEST) for because in "ab"
    )
    discard_page = DiscardableSet.discard_page

    def time_out(failed: DiscardableSet, operation: Operation, **options: Any) -> bool:
        if operation.id == slow.id:
            raise StoreUnavailable("a statement exceeded its timeout")
        return discard_page(failed, operation, **options)

    monkeypatch.setattr(DiscardableSet, "discard_page", time_out)
    runner = OperationRunner(seeded.store, owner="a test")
    runner.run_once()
    runner.run_once()

    ended = Operations(seeded.store).get(other.id)
    assert ended
    assert (ended.state, ended.done) == ("finished", 1)
    assert [step for step, _ in runner.list_faults()] == [f"operation {slow.id}"]


@pytest.mark.parametrize("is_discard", [True, False])
def test_a_set_too_large_to_count_is_done_without_a_total(
    seeded: SeededStore, monkeypatch: pytest.MonkeyPatch, *, is_discard: bool
) -> None:
    put_copies(seeded, 10)
    monkeypatch.setattr(executors, "_MAX_TOTAL", 9)
    operation = (
        start_discard(seeded.store, FAILED, because="x", requester=BY_TEST)
        if is_discard
        else start(seeded.store)
    )

    OperationExecutor(seeded.store, owner="a test").run_slice(operation.id)
    running = Operations(seeded.store).get(operation.id)
    seeded.store.execute(deliveries.update().values(state="settled", settled_at=datetime.now(UTC)))
    ended = execute(seeded.store, operation)

    assert running
    # A discard of ten has ended within its slice.
    assert running.total == (10 if is_discard else None)
    assert (ended.state, ended.done, ended.total) == ("finished", 10, 10)


def test_a_set_that_takes_too_long_to_count_is_done_without_a_total(
    seeded: SeededStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_copies(seeded, 10)

    def time_out(*_: object, **__: object) -> int:
        raise StoreUnavailable("a statement exceeded its timeout")

    monkeypatch.setattr(DiscardableSet, "count_bounded", time_out)
    ended = execute(seeded.store, start_discard(seeded.store, FAILED, because="x", requester=BY_TEST))

    assert (ended.state, ended.done, ended.total) == ("finished", 10, 10)


def test_processes_that_execute_one_discard_at_once_do_each_page_once(
    seeded: SeededStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_copies(seeded, 1300)
    operation = start_discard(seeded.store, FAILED, because="x", requester=BY_TEST)
    # As if every lease had ended while its process stalled.
    monkeypatch.setattr("app.store.operations.LEASE_S", -1.0)

    def run(name: int) -> None:
        executor = OperationExecutor(seeded.store, owner=f"process {name}")
        while executor.run_slice(operation.id):
            continue

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, range(3)))

    ended = Operations(seeded.store).get(operation.id)
    assert ended
    assert (ended.state, ended.done, ended.total) == ("finished", 1300, 1300)
    assert count_states(seeded.store) == {"discarded": 1300}


def test_another_process_continues_after_the_last_page_of_one_that_died(seeded: SeededStore) -> None:
    put_copies(seeded, 1300)
    operation = start_discard(seeded.store, FAILED, because="x", requester=BY_TEST)
    leased = Operations(seeded.store).lease(operation.id, owner="died", now=datetime.now(UTC))
    assert leased
    request = OperationRequest.from_json(operation.request)
    failed = DiscardableSet(seeded.store, request.delivery_filter, of_records=False)
    failed.discard_page(leased, reason="x", now=datetime.now(UTC))

    after_lease = datetime.now(UTC) + timedelta(seconds=LEASE_S + 1)
    other = OperationExecutor(seeded.store, owner="other")
    is_leased_by_other = other.run_slice(operation.id)
    successor = OperationExecutor(seeded.store, owner="successor", clock=lambda: after_lease)
    while successor.run_slice(operation.id):
        continue

    ended = Operations(seeded.store).get(operation.id)
    assert not is_leased_by_other
    assert ended
    assert (ended.state, ended.done) == ("finished", 1300)


@pytest.mark.parametrize("step", ["leased", "requeueing", "requeued", "discarding", "discarded"])
def test_nothing_is_done_twice_after_the_process_of_an_operation_is_killed(
    seeded: SeededStore, step: str
) -> None:
    put_copies(seeded, 11)
    is_discard = step.startswith("discard")
    operation = (
        start_discard(seeded.store, FAILED, because="x", requester=BY_TEST)
        if is_discard
        else start(seeded.store)
    )

    killed = kill_during(step, seeded.url, operation)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    changed = 2 * BATCH_SIZE if step in ("requeued", "discarded") else BATCH_SIZE
    assert count_states(seeded.store) == {
        "discarded" if is_discard else "pending": changed,
        "dead": 11 - changed,
    }
    # Requeued deliveries fail again: another batch must not requeue them.
    seeded.store.execute(deliveries.update().where(deliveries.c.state == "pending").values(state="dead"))
    after_lease = datetime.now(UTC) + timedelta(seconds=LEASE_S + 1)
    successor = OperationExecutor(seeded.store, owner="successor", clock=lambda: after_lease)
    while successor.run_slice(operation.id):
        continue

    ended = Operations(seeded.store).get(operation.id)
    assert ended
    if is_discard:
        assert count_states(seeded.store) == {"discarded": 11}
        assert (ended.state, ended.done) == ("finished", 11)
    else:
        replay = Replays(seeded.store).get(operation.id)
        assert replay
        assert replay.requeued_deliveries == 11
        assert count_states(seeded.store) == {"pending": 11 - changed, "dead": changed}


def kill_during(step: str, url: str, operation: Operation) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.support.crashing_operation", step, url, str(operation.id)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_replay_keeps_few_deliveries_pending(seeded: SeededStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put_copies(seeded, 1300)
    monkeypatch.setattr(executors, "MAX_IN_PROGRESS", 500)

    waiting = execute(seeded.store, start(seeded.store))

    assert count_states(seeded.store) == {"pending": 400, "dead": 900}
    assert (waiting.state, waiting.total, waiting.done) == ("running", 1300, 0)


def test_a_cancelled_operation_changes_nothing_more(seeded: SeededStore) -> None:
    put_copies(seeded, 700)
    operation = start_discard(seeded.store, FAILED, because="x", requester=BY_TEST)
    request = OperationRequest.from_json(operation.request)
    failed = DiscardableSet(seeded.store, request.delivery_filter, of_records=False)
    failed.discard_page(operation, reason="x", now=datetime.now(UTC))

    is_cancelled = cancel_operation(seeded.store, operation.id)
    ended = execute(seeded.store, operation)
    # A process that had read the operation before it was cancelled.
    failed.discard_page(replace(ended, finished_at=None), reason="x", now=datetime.now(UTC))

    assert (is_cancelled, cancel_operation(seeded.store, operation.id)) == (True, False)
    assert (ended.state, ended.done) == ("cancelled", 500)
    assert count_states(seeded.store) == {"discarded": 500, "dead": 200}


def test_a_cancelled_replay_requeues_nothing_more(seeded: SeededStore) -> None:
    put_copies(seeded, 20)
    operation = start(seeded.store)
    replays = Replays(seeded.store)
    replay = replays.get(operation.id)
    candidates = replays.find_candidates(FAILED, after=None, limit=5)

    cancel_operation(seeded.store, operation.id)

    assert replay
    assert replays.requeue(replay, candidates, sink="", now=datetime.now(UTC)) is None
    assert count_states(seeded.store) == {"dead": 20}


def test_the_queue_of_operations_has_a_bound(seeded: SeededStore) -> None:
    for number in range(MAX_UNFINISHED):
        start_discard(seeded.store, FAILED, because=str(number), requester=BY_TEST)

    with pytest.raises(OperationRefused, match="rapidbridge operations list"):
        start_discard(seeded.store, FAILED, because="one more", requester=BY_TEST)
    assert len(Operations(seeded.store).list_unfinished()) == MAX_UNFINISHED


def test_a_fault_of_the_code_fails_the_operation_once(
    seeded: SeededStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded.put("dead", "x")
    monkeypatch.setattr(DiscardableSet, "discard_page", None)

    ended = execute(seeded.store, start_discard(seeded.store, FAILED, because="x", requester=BY_TEST))

    assert ended.state == "failed"
    assert ended.error.startswith("TypeError at ")


def test_a_set_that_two_people_confirm_is_done_once(seeded: SeededStore) -> None:
    ids = [seeded.put("dead", "x") for _ in range(3)]
    counted = [datetime.now(UTC), datetime.now(UTC) + timedelta(seconds=1)]
    sets = [FailureSet.build(DeliveryFilter(), of_records=False, counted_at=at) for at in counted]

    numbers = [failures.count(seeded.store) for failures in sets]
    first = sets[0].start_replay(seeded.store, requester=BY_TEST, config=CONFIG, now=counted[1])
    execute(seeded.store, first)
    # They fail again before the second person confirms.
    _fail_again(seeded, ids, at=counted[1] + timedelta(seconds=1))
    second = sets[1].start_replay(seeded.store, requester=BY_TEST, config=CONFIG, now=counted[1])
    ended = execute(seeded.store, second)

    assert numbers == [BoundedCount(3)] * 2
    assert second.id != first.id
    assert (ended.state, ended.total) == ("finished", 0)
    assert count_states(seeded.store) == {"dead": 3}


def _fail_again(seeded: SeededStore, ids: Sequence[object], *, at: datetime) -> None:
    change = deliveries.update().where(deliveries.c.id.in_(ids)).values(state="dead", settled_at=at)
    seeded.store.execute(change)


def test_a_set_of_one_cause_excludes_other_causes_and_later_failures(seeded: SeededStore) -> None:
    chosen = seeded.put("dead", "x", resource="")
    other_resource, other_reason = seeded.put("dead", "x", resource="crm/a"), seeded.put("dead", "")
    counted_at = datetime.now(UTC)
    later = seeded.put("dead", "x", resource="", received_at=counted_at + timedelta(seconds=1))
    cause = FailureCause("dead", "x", "", "")
    failures = FailureSet.build(DeliveryFilter(cause=cause), of_records=False, counted_at=counted_at)

    number = failures.count(seeded.store)
    operation = failures.start_discard(
        seeded.store,
        because="x",
        number=number,
        requester=BY_TEST,
        now=counted_at + timedelta(seconds=2),
    )
    ended = execute(seeded.store, operation)

    states = {id_: seeded.read_row(id_)["state"] for id_ in (chosen, other_resource, other_reason, later)}
    assert number == BoundedCount(1)
    assert (ended.done, states[chosen]) == (1, "discarded")
    assert states[other_resource] == states[other_reason] == states[later] == "dead"


def test_dead_records_of_one_cause_are_discarded_alone(seeded: SeededStore) -> None:
    unreadable = seeded.put_with_dead_records(sink="", reason="too_deep")
    seeded.put_with_dead_records(sink="main", reason="too_deep")
    cause = FailureCause("record", "too_deep", "", "crm/contacts")
    now = datetime.now(UTC) + timedelta(hours=1)
    failures = FailureSet.build(DeliveryFilter(cause=cause), of_records=True, counted_at=now)

    number = failures.count(seeded.store)
    operation = failures.start_discard(
        seeded.store, because="agreed", number=number, requester=BY_TEST, now=now
    )
    ended = execute(seeded.store, operation)

    assert (number.number, ended.done) == (2, 2)
    is_discarded = dead_records.c.discard_reason != ""
    discarded = seeded.store.read(select(dead_records.c.delivery_id).where(is_discarded))
    assert {row[0] for row in discarded} == {unreadable}


def test_a_request_is_read_back_as_it_was_stored() -> None:
    delivery_filter = DeliveryFilter(
        ids=(uuid4(),),
        states=("dead", "late"),
        resource="crm/*",
        since=datetime(2026, 11, 26, tzinfo=UTC),
        has_dead_records=True,
        cause=FailureCause("dead", "x", "", ""),
        settled_until=datetime(2026, 11, 27, tzinfo=UTC),
    )
    request = OperationRequest(delivery_filter, sink="lake", limit=3, because="x")

    assert OperationRequest.from_json(request.to_json()) == request
    assert json.loads(request.to_json())["filter"]["resource"] == "crm/*"
    assert request.describe()["exact resource"] == "(none)"


def test_operations_that_ended_long_ago_are_deleted(store: Database, seeded: SeededStore) -> None:
    put_copies(seeded, 2)
    now = datetime.now(UTC)
    old = now - timedelta(days=91)
    waiting, ended = (begin_replay(store, request, now=old) for request in ("{1}", "{2}"))
    operation = start(store)
    requests = Operations(store), Replays(store)
    with store.transaction() as connection:
        for table in (operations, replays):
            connection.execute(table.update().values(finished_at=old))
        # A replay of a sink that has been paused ever since.
        held = select(deliveries.c.id).limit(1).scalar_subquery()
        connection.execute(
            deliveries.update().where(deliveries.c.id == held).values(state="pending", replay_id=waiting.id)
        )
        settled = deliveries.update().where(deliveries.c.state != "pending")
        connection.execute(settled.values(state="settled", replay_id=ended.id))
    recent = start(store, DeliveryFilter(resource="crm/contacts"))

    # RETENTION_DAYS=0 keeps bodies, and not operations.
    Pruner(store, 0).run_once()

    assert [requests[0].get(id_) is None for id_ in (operation.id, recent.id)] == [True, False]
    assert [requests[1].get(replay.id) is None for replay in (waiting, ended)] == [False, True]
    assert requests[1].get(operation.id) is None
