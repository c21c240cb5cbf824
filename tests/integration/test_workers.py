"""Real RQ workers under their supervisor, on a real Valkey."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis import Redis
from rq import Queue
from rq.callbacks import Callback
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.webhook import Webhook
from sqlalchemy import text

from app.cli.local.supervisor import Supervisor
from app.cli.local.valkey import build_valkey_command
from app.database.engine import Database, open_database
from app.errors import QueueUnavailable
from app.redis.connection import connect_redis
from app.redis.queue import IDS_PER_JOB, JOB_FUNCTION, DeliveryQueue
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.truto.events import Envelope
from app.web.enqueuer import NewDelivery
from tests.support.crashing_worker import CRASHING_RECORD_ID
from tests.support.forbidden_jobs import FORBIDDEN_JOB_RAN_KEY
from tests.support.processes import ROOT, Command, find_descendants, is_alive
from tests.support.redis_keys import open_queue, open_spool
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment
from workers.background.feeder import Feeder
from workers.background.sweeper import Sweeper


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    engine = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(engine)
    yield engine
    engine.close()


@pytest.fixture
def inbox(store: Database) -> Inbox:
    return Inbox(store)


@pytest.fixture
def worker(tmp_path: Path, redis_url: str, redis: Redis, inbox: Inbox) -> Iterator[Command]:
    settings = make_environment(DATABASE_URL=f"sqlite:///{tmp_path}/store.db", REDIS_URL=redis_url)
    with Command(["app.cli", "worker", "-n", "2"], folder=tmp_path, environment=settings) as command:
        wait_until(lambda: redis.scard("rq:workers") == 2, what=lambda: f"two workers\n{command.log}")
        yield command


def put(inbox: Inbox, number: int | str) -> UUID:
    payload: dict[str, Any] = {"integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
    payload["records"] = [{"id": str(number)}]
    body = json.dumps({"event": "sync_job_run:record", "payload": payload}).encode()
    incoming = IncomingDelivery(
        body,
        hashlib.sha256(body).digest(),
        datetime.now(UTC),
        Envelope(event_id=str(number), event="sync_job_run:record", resource="crm/contacts", method="list"),
    )
    return inbox.put([incoming])[0].delivery_id


def enqueue(redis: Redis, store: Database, ids: list[UUID]) -> None:
    open_queue(redis, store).enqueue([NewDelivery(id_) for id_ in ids])


def test_enqueued_deliveries_are_settled(
    worker: Command, inbox: Inbox, redis: Redis, store: Database
) -> None:
    ids = [put(inbox, number) for number in range(100)]

    enqueue(redis, store, ids)

    wait_until(lambda: inbox.count_by_state().get("settled") == 100, what=lambda: worker.log)
    assert "Traceback" not in worker.log


def test_the_sweeper_enqueues_deliveries_that_have_no_job(worker: Command, inbox: Inbox) -> None:
    for number in range(50):
        put(inbox, number)

    wait_until(lambda: inbox.count_by_state().get("settled") == 50, timeout_s=30, what=lambda: worker.log)


def test_wiping_redis_loses_nothing(worker: Command, inbox: Inbox, redis: Redis, store: Database) -> None:
    ids = [put(inbox, number) for number in range(200)]
    enqueue(redis, store, ids)
    redis.flushall()

    wait_until(lambda: inbox.count_by_state().get("settled") == 200, timeout_s=40, what=lambda: worker.log)


def test_workers_register_again_after_redis_was_wiped(worker: Command, redis: Redis, store: Database) -> None:
    queue = open_queue(redis, store)
    redis.flushall()

    wait_until(lambda: queue.count_workers() == 2, timeout_s=30, what=lambda: worker.log)


@pytest.mark.parametrize("is_wiped", [True, False])
def test_jobs_that_redis_lost_or_refused_are_enqueued_again_at_once(
    redis: Redis, store: Database, inbox: Inbox, is_wiped: bool
) -> None:
    queue = open_queue(redis, store)
    sweeper, feeder = Sweeper(store, queue, open_spool(redis, store)), Feeder(store, queue)
    sweeper.run_once()
    incoming = IncomingDelivery(b"{}", b"", datetime(2026, 1, 1, tzinfo=UTC))
    inbox.put([incoming])
    if is_wiped:
        feeder.run_once()
        assert queue.count_queued() == 1
        redis.flushall()
    else:
        redis.config_set("maxmemory", 1)
        feeder.run_once()
        redis.config_set("maxmemory", 0)
        assert queue.count_queued() == 0

    sweeper.run_once()
    queue.report_unqueued()
    feeder.run_once()

    assert queue.count_queued() == 1


def test_jobs_in_redis_hold_ids_and_no_records(redis: Redis, inbox: Inbox, store: Database) -> None:
    ids = [put(inbox, number) for number in range(IDS_PER_JOB + 1)]

    enqueue(redis, store, ids)

    queue = Queue(open_queue(redis, store).name, connection=redis, serializer=JSONSerializer)
    jobs = queue.get_jobs()
    assert [job.args for job in jobs] == [
        [[str(id_) for id_ in ids[:IDS_PER_JOB]]],
        [[str(ids[-1])]],
    ]
    assert all("attempt-1" in job.id for job in jobs)


def test_a_delivery_that_killed_a_worker_gets_a_job_of_its_own(
    redis: Redis, inbox: Inbox, store: Database
) -> None:
    ids = [put(inbox, number) for number in range(4)]

    open_queue(redis, store).enqueue(
        [NewDelivery(id_, lost_attempts=place % 2) for place, id_ in enumerate(ids)]
    )

    jobs = Queue(open_queue(redis, store).name, connection=redis, serializer=JSONSerializer).get_jobs()
    assert [job.args[0] for job in jobs] == [[str(ids[0]), str(ids[2])], [str(ids[1])], [str(ids[3])]]


def test_a_backlog_does_not_fill_redis(redis: Redis, store: Database, inbox: Inbox) -> None:
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    incoming = [
        IncomingDelivery(b"%d" % number, b"", long_ago, Envelope(event_id=str(number)))
        for number in range(10 * IDS_PER_JOB)
    ]
    inbox.put(incoming)
    queue = open_queue(redis, store)
    feeder = Feeder(store, queue)

    for _ in range(5):
        feeder.run_once()

    load = queue.read_load()
    assert (load.jobs, load.workers, load.has_backlog) == (2, 1, True)


@pytest.mark.parametrize("way", ["function", "pickle", "method"])
def test_only_our_own_function_runs(
    worker: Command, redis: Redis, store: Database, tmp_path: Path, way: str
) -> None:
    created_file = tmp_path / "created"
    queue = Queue(open_queue(redis, store).name, connection=redis, serializer=JSONSerializer)
    touch = (str(created_file), os.O_CREAT)
    if way == "function":
        queue.enqueue_call("os.open", args=touch)
    elif way == "method":
        job = Job.create(
            "os.open",
            connection=redis,
            serializer=JSONSerializer,
            origin=open_queue(redis, store).name,
            args=touch,
        )
        job.instance = str(created_file)
        queue.enqueue_job(job)
    else:
        job = queue.enqueue_call("os.open", args=touch)
        redis.hset(job.key, "data", pickle.dumps(("os.open", None, touch, {})))

    _wait_for_workers(worker, redis, store)

    assert not created_file.exists()


@pytest.mark.parametrize("arguments", [[[]], ["nonsense"]])
def test_a_job_cannot_bring_callbacks_or_webhooks(
    worker: Command, redis: Redis, store: Database, arguments: list[object]
) -> None:
    queue = Queue(open_queue(redis, store).name, connection=redis, serializer=JSONSerializer)
    callback = Callback("tests.support.forbidden_jobs.spring")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        hooks = [Webhook(url, "finished", timeout=1), Webhook(url, "failed", timeout=1)]
        queue.enqueue_call(
            JOB_FUNCTION, args=arguments, on_success=callback, on_failure=callback, webhooks=hooks
        )

        _wait_for_workers(worker, redis, store)

        with pytest.raises(TimeoutError):
            listener.accept()
    assert redis.get(FORBIDDEN_JOB_RAN_KEY) is None


def _wait_for_workers(worker: Command, redis: Redis, store: Database) -> None:
    """Return once the workers have emptied the queue and still process deliveries."""
    inbox = Inbox(store)
    wait_until(lambda: redis.llen(f"rq:queue:{open_queue(redis, store).name}") == 0, what="the job to start")
    enqueue(redis, store, [put(inbox, 1)])
    wait_until(lambda: inbox.count_by_state().get("settled") == 1, timeout_s=40, what=lambda: worker.log)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_delivery_that_kills_its_worker_is_dead_and_the_others_are_settled(
    tmp_path: Path, redis: Redis, store: Database, inbox: Inbox, number: signal.Signals
) -> None:
    path = redis.connection_pool.connection_kwargs["path"]
    settings = make_environment(DATABASE_URL=f"sqlite:///{tmp_path}/store.db", REDIS_URL=f"unix://{path}")
    command = [sys.executable, "-m", "tests.support.crashing_worker", str(int(number)), "at a record"]
    enqueue(redis, store, [put(inbox, 1), put(inbox, CRASHING_RECORD_ID), put(inbox, 2)])
    queue = open_queue(redis, store)
    feeder = Feeder(store, queue)

    with Supervisor(tmp_path) as supervisor:
        supervisor.start("deadly", command, settings | {"PYTHONPATH": str(ROOT)})

        def is_over() -> bool:
            supervisor.restart_exited()
            if not supervisor.is_alive("deadly"):
                # The worker is dead: end its lease at once, to shorten the test.
                with store.engine.begin() as connection:
                    connection.execute(text("UPDATE rapidbridge_deliveries SET leased_until = NULL"))
                    connection.execute(
                        text("UPDATE rapidbridge_deliveries SET due_at = '2026-01-01 00:00:00'")
                    )
                queue.report_unqueued()
                feeder.run_once()
            return "pending" not in inbox.count_by_state()

        wait_until(is_over, timeout_s=40, what=supervisor.read_output)

    assert inbox.count_by_state() == {"settled": 2, "dead": 1, "duplicate": 0}


def test_sigterm_stops_everything_at_once(worker: Command) -> None:
    assert len(find_descendants(worker.pid)) >= 2

    assert worker.stop(signal.SIGTERM) == 0


def test_workers_end_with_their_killed_parent(worker: Command) -> None:
    family = find_descendants(worker.pid)
    assert len(family) >= 2

    worker.stop(signal.SIGKILL)

    assert not any(map(is_alive, family))


def test_a_killed_worker_is_replaced(worker: Command, redis: Redis, inbox: Inbox, store: Database) -> None:
    before = find_descendants(worker.pid)
    os.kill(before[0], signal.SIGKILL)

    wait_until(
        lambda: len(set(find_descendants(worker.pid)) - {before[0]}) == 2,
        what=lambda: f"another worker\n{worker.log}",
    )
    ids = [put(inbox, number) for number in range(20)]
    enqueue(redis, store, ids)
    wait_until(lambda: inbox.count_by_state().get("settled") == 20, what=lambda: worker.log)


def test_workers_log_that_redis_is_away_and_start_when_it_is_back(
    tmp_path: Path, store: Database, inbox: Inbox
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="rb-"))
    _, url = build_valkey_command(folder)
    settings = make_environment(DATABASE_URL=f"sqlite:///{tmp_path}/store.db", REDIS_URL=url)
    put(inbox, 1)

    with Command(["app.cli", "worker"], folder=tmp_path, environment=settings) as command:
        command.wait_for("worker.disconnected")
        command.wait_for("task.failed")
        server = ValkeyServer(folder)
        wait_until(lambda: inbox.count_by_state().get("settled") == 1, timeout_s=30, what=lambda: command.log)
        command.wait_for("task.recovered")
        assert "Traceback" not in command.log

    server.stop()
    shutil.rmtree(folder)


def test_an_unreachable_redis_is_reported_in_seconds(tmp_path: Path) -> None:

    with pytest.raises(QueueUnavailable, match="REDIS_URL"):
        DeliveryQueue(connect_redis(f"unix://{tmp_path}/none.sock", tls_verify=True), "test").count_queued()
