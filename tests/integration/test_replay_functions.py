"""The functions of app.replay without the command line, as a web page calls them."""

import io
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select

from app.config.delivery_config import DeliveryConfig
from app.replay.executor import OperationExecutor
from app.replay.follow import follow_operation
from app.replay.forwarder import Forwarder
from app.replay.importer import Importer
from app.replay.operations import start_replay
from app.replay.preview import preview_forward, preview_replay
from app.replay.replay_summary import ReplaySummary, summarize_replay
from app.replay.request import ReplayRequest
from app.store.delivery_filter import DeliveryFilter
from app.store.operations import Operation, Operations
from app.store.replays import Replays
from app.store.schema import deliveries
from app.truto.webhook_sender import WebhookTarget
from tests.support.delivered_store import DAY, NOW, DeliveredStore
from tests.support.fake_receiver import SECRET, running_receiver
from tests.support.replays import BY_TEST

RECORDS = [{"id": "1"}]
EVERYTHING = ReplayRequest(DeliveryFilter())


class RecordingObserver:
    """Records all progress; an `OperationObserver`, an `ImportObserver` and a `ForwardObserver`."""

    def __init__(self) -> None:
        self.settled: list[int] = []
        self.stored_batches = 0
        self.skipped_lines: list[int] = []
        self.sent = 0
        self.not_accepted: list[tuple[UUID, int]] = []

    def on_progress(self, operation: Operation) -> None:
        self.settled.append(operation.done)

    def on_stalled(self, operation: Operation, stalled_s: float) -> None:
        raise AssertionError(f"{operation.id} stalled for {stalled_s} s")

    def on_stored(self) -> None:
        self.stored_batches += 1

    def on_skipped(self, line_number: int, reason: str) -> None:
        assert reason
        self.skipped_lines.append(line_number)

    def on_sent(self) -> None:
        self.sent += 1

    def on_not_accepted(self, delivery_id: UUID, http_status: int) -> None:
        self.not_accepted.append((delivery_id, http_status))


class InterruptingObserver(RecordingObserver):
    """Interrupts a replay at its first report."""

    def on_progress(self, operation: Operation) -> None:
        super().on_progress(operation)
        raise KeyboardInterrupt


@pytest.fixture
def delivered(tmp_path: Path) -> Iterator[DeliveredStore]:
    """A store with two settled deliveries, an unrouted one and a pending one."""
    made = DeliveredStore(f"sqlite:///{tmp_path}/store.db", tmp_path)
    made.deliver("e1", records=RECORDS, days_ago=4)
    made.deliver("e2", records=RECORDS, days_ago=3)
    made.deliver("e3", records=RECORDS, resource="hr/people", days_ago=2)
    made.put("e4", records=RECORDS, days_ago=1)
    yield made
    made.close()


@contextmanager
def running_worker(delivered: DeliveredStore) -> Iterator[None]:
    """Deliver all pending deliveries, in a thread."""
    stopped = threading.Event()
    pending = select(deliveries.c.id).where(deliveries.c.state == "pending")

    def work() -> None:
        while not stopped.wait(0.02):
            delivered.worker.deliver([row.id for row in delivered.store.read(pending)])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def test_a_preview_counts_the_deliveries_to_replay_and_those_left_out(delivered: DeliveredStore) -> None:
    replays, now = Replays(delivered.store), datetime.now(UTC)

    everything = preview_replay(replays, EVERYTHING, now=now)
    limited = preview_replay(replays, ReplayRequest(DeliveryFilter(), limit=2), now=now)
    to_forward = preview_forward(replays, EVERYTHING, now=now)

    assert everything.as_json() == {
        "deliveries": 3,
        "groups": [
            {"resource": "crm/contacts", "method": "list", "state": "settled", "deliveries": 2},
            {"resource": "hr/people", "method": "list", "state": "unrouted", "deliveries": 1},
        ],
        "left_out": {"pending": 1},
    }
    assert (limited.total, limited.is_limited) == (2, True)
    assert (to_forward.total, to_forward.is_limited, dict(to_forward.left_out)) == (4, False, {})


def test_a_replay_redelivers_and_reports_its_progress(delivered: DeliveredStore) -> None:
    observer = RecordingObserver()
    # Without the pending delivery, which the worker settles meanwhile.
    request = ReplayRequest(DeliveryFilter(resource="crm/*", states=("settled",), until=NOW - 1.5 * DAY))

    with running_worker(delivered):
        ended = follow(delivered, start(delivered, request), observer)
    summary = summarize(delivered, ended)

    assert summary.as_json() | {"replay": ""} == {
        "replay": "",
        "is_finished": True,
        "deliveries": 2,
        "states": {"settled": 2},
        "still_unreadable": 0,
        "dead_records": 0,
        "with_dead_records": 0,
        "left_out": {},
    }
    assert not summary.has_problems
    assert (ended.total, ended.done) == (2, 2)
    assert observer.settled == sorted(observer.settled)
    assert observer.settled[-1] == 2


def test_an_interrupted_command_leaves_its_replay_to_other_processes(delivered: DeliveredStore) -> None:
    request = ReplayRequest(DeliveryFilter(states=("settled",), until=NOW - 1.5 * DAY))
    operation = start(delivered, request)

    with pytest.raises(KeyboardInterrupt):
        follow(delivered, operation, InterruptingObserver())
    interrupted = Operations(delivered.store).get(operation.id)
    same = start(delivered, request)
    with running_worker(delivered):
        ended = follow(delivered, same, RecordingObserver())

    assert interrupted
    assert (interrupted.state, interrupted.leased_by) == ("running", "")
    assert summarize(delivered, interrupted).has_problems
    assert same.id == operation.id
    assert (ended.state, ended.done) == ("finished", 2)
    assert preview_replay(Replays(delivered.store), request, now=datetime.now(UTC)).unfinished is None


def start(delivered: DeliveredStore, request: ReplayRequest) -> Operation:
    config = DeliveryConfig.build(delivered.routes, late_records="deliver", to_open_run=False)
    return start_replay(delivered.store, request, requester=BY_TEST, config=config)


def follow(delivered: DeliveredStore, operation: Operation, observer: RecordingObserver) -> Operation:
    executor = OperationExecutor(delivered.store, owner="a command")
    return follow_operation(delivered.store, operation, executor=executor, observer=observer)


def summarize(delivered: DeliveredStore, operation: Operation) -> ReplaySummary:
    is_finished = operation.state == "finished"
    return summarize_replay(
        Replays(delivered.store), operation.id, sink="", left_out=Counter(), is_finished=is_finished
    )


def test_an_import_stores_new_deliveries_and_skips_other_lines(delivered: DeliveredStore) -> None:
    observer = RecordingObserver()
    body = delivered.make_delivery("e5", records=RECORDS).body
    importer = Importer(delivered.inbox, secret=SECRET, max_body_bytes=10_000, observer=observer)

    importer.import_lines(io.BufferedReader(io.BytesIO(b"\n".join([body, b"no delivery", body]))))

    assert importer.counts.as_json() == {
        "new": 1,
        "quarantined": 0,
        "restored": 0,
        "duplicates": 1,
        "erased": 0,
        "skipped": 1,
    }
    assert importer.counts.has_problems
    assert (observer.stored_batches, observer.skipped_lines) == (1, [2])


def test_forwarding_sends_the_oldest_deliveries_to_another_receiver(delivered: DeliveredStore) -> None:
    observer, now = RecordingObserver(), datetime.now(UTC)
    request = ReplayRequest(DeliveryFilter(), limit=3)

    with running_receiver(lambda event, _earlier: 503 if event["id"] == "e2" else 200) as receiver:
        target = WebhookTarget(receiver.url, SECRET, first_backoff_s=0.01)
        forwarder = Forwarder(delivered.store, target, observer=observer)
        forwarder.forward(request, now=now)

    counts = forwarder.counts
    assert list(dict.fromkeys(event["id"] for event in receiver.events)) == ["e1", "e2", "e3"]
    assert (counts.accepted, counts.not_accepted, counts.sent) == (2, 1, 3)
    assert observer.sent == 3
    assert [status for _, status in observer.not_accepted] == [503]
    assert counts.responses["failed"] == 4
