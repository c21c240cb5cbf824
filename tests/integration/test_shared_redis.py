"""Receivers that share one Redis, and the keys of releases that named no receiver."""

import hashlib
import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from app.config.settings import read_settings
from app.database.engine import Database, open_database
from app.redis.queue import UNNAMED, DeliveryQueue
from app.redis.spool import Spool
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.store.worker_registry import WorkerRecord, WorkerRegistry
from app.truto.events import read_envelope
from app.truto.signature import parse_signature_header, sign
from app.web.enqueuer import NewDelivery
from tests.support.commands import run_command
from tests.support.postgres import PostgresServer
from tests.support.processes import Command
from tests.support.redis_keys import namespace_of, open_queue, open_spool
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, WebProcess, make_environment
from workers.background.other_spools import OtherSpools
from workers.background.sweeper import Sweeper

OTHER_SECRET = "5b1c9a55-0b1f-4c39-bb3f-1f0f0d6f9f0e"


class Receiver:
    """A store, and the commands and background tasks of its receiver."""

    def __init__(self, folder: Path, name: str, url: str, redis_url: str, **settings: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.url = url
        self.settings = {
            "DATABASE_URL": url,
            "REDIS_URL": redis_url,
            "TRUTO_WEBHOOK_SECRET": SECRET,
            **settings,
        }
        self.store: Database = open_database(url)
        migrate(self.store)
        self.inbox = Inbox(self.store)
        self.namespace = read_settings(self.settings).namespace

    def worker(self) -> Command:
        return Command(
            ["app.cli", "worker"], folder=self.folder, environment=make_environment(**self.settings)
        )

    def sweep(self, redis: Redis) -> None:
        queue = DeliveryQueue(redis, self.namespace)
        spool = Spool(redis, self.namespace, read_settings(self.settings))
        Sweeper(self.store, queue, spool).run_once()

    def migrate_unnamed(self, redis: Redis) -> None:
        OtherSpools(self.store, redis, read_settings(self.settings)).run_once()

    def run(self, *words: str, code: int = 0) -> str:
        ran = run_command(*words, cwd=self.folder, environment=make_environment(**self.settings))
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def check(self, check: str, *, component: str = "redis", code: int = 1) -> list[dict[str, str]]:
        """Return `doctor`'s results of one check."""
        checks = json.loads(self.run("doctor", "--no-post", "--json", code=code))["checks"]
        return [result for result in checks if (result["component"], result["check"]) == (component, check)]

    def count(self) -> int:
        return sum(self.inbox.count_by_state().values())


def make_delivery(number: int, secret: str = SECRET) -> IncomingDelivery:
    ids = {"integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
    payload = {**ids, "records": [{"id": str(number)}]}
    body = json.dumps({"id": f"e{number}", "event": "sync_job_run:record", "payload": payload}).encode()
    digest = parse_signature_header(sign(body, secret)) if secret else hashlib.sha256(body).digest()
    return IncomingDelivery(body, digest, datetime.now(UTC), read_envelope(body))


@pytest.fixture
def staging(tmp_path: Path, redis_url: str, redis: Redis) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path, "staging", f"sqlite:///{tmp_path}/staging/store.db", redis_url)
    yield receiver
    receiver.store.close()


@pytest.fixture
def production(
    tmp_path: Path, private_postgres: PostgresServer, redis_url: str, redis: Redis
) -> Iterator[Receiver]:
    with private_postgres.database() as url:
        receiver = Receiver(tmp_path, "production", url, redis_url)
        yield receiver
        receiver.store.close()


def test_deliveries_spooled_by_one_receiver_never_reach_another(
    tmp_path: Path, production: Receiver, staging: Receiver, private_postgres: PostgresServer, redis: Redis
) -> None:
    bodies = [make_delivery(number).body for number in range(3)]
    redis_url = production.settings["REDIS_URL"]
    private_postgres.kill()
    try:
        # Started while the database is down: its namespace does not come from there.
        with (
            WebProcess(tmp_path, database_url=production.url, redis_url=redis_url) as web,
            staging.worker() as worker,
        ):
            answers = [web.post(body) for body in bodies]
            # The worker's sweeper has run since.
            open_spool(redis, staging.store).put(make_delivery(9))
            wait_until(
                lambda: staging.inbox.count_by_state().get("settled") == 1,
                timeout_s=40,
                what=lambda: worker.log,
            )
    finally:
        private_postgres.start()

    assert [answer.http_status for answer in answers] == [200] * 3
    assert staging.count() == 1
    assert Spool(redis, production.namespace).count() == 3
    # The first connection of the pool died with the server.
    production.store.close()
    production.sweep(redis)
    assert [
        production.inbox.read_body(UUID(answer.delivery)) for answer in answers if answer.delivery
    ] == bodies


def test_receivers_do_not_take_each_others_jobs_and_count_only_their_own_workers(
    production: Receiver, staging: Receiver, redis: Redis
) -> None:
    [receipt] = production.inbox.put([make_delivery(1)])
    queue = DeliveryQueue(redis, production.namespace)
    queue.enqueue([NewDelivery(receipt.delivery_id)])

    with staging.worker() as worker:
        wait_until(lambda: open_queue(redis, staging.store).count_workers() == 1, what=lambda: worker.log)
        [own] = staging.inbox.put([make_delivery(2)])
        open_queue(redis, staging.store).enqueue([NewDelivery(own.delivery_id)])
        wait_until(lambda: staging.inbox.count_by_state().get("settled") == 1, what=lambda: worker.log)

        assert queue.count_jobs() == (1, 0)
        assert queue.count_workers() == 0
        [shared] = production.check("namespace")
        assert f"{production.namespace}; shared with {staging.namespace} (1 worker," in shared["message"]
        [alive] = production.check("alive", component="workers")
        assert alive["level"] == "fail"


def test_a_spool_that_no_worker_empties_is_reported_with_the_command_that_moves_it(
    tmp_path: Path, staging: Receiver, redis: Redis
) -> None:
    # The same database under another URL, for example through a pooler.
    open_spool(redis, staging.store).put(make_delivery(1))
    renamed = Receiver(
        tmp_path, "renamed", staging.url, staging.settings["REDIS_URL"], REDIS_NAMESPACE="mine"
    )
    with renamed.worker() as worker:
        worker.wait_for("spool.stranded")
        assert f"--adopt-spool {staging.namespace}" in worker.log
    assert renamed.count() == 0

    [stranded] = renamed.check("stranded")
    command = f"rapidbridge migrate --adopt-spool {staging.namespace}"
    assert (stranded["level"], stranded["advice"].endswith(command)) == ("warn", True)
    assert "1 delivery waits" in stranded["message"]
    output = renamed.run(*command.split()[1:])

    assert "Moved 1 delivery to the inbox." in output
    assert (renamed.count(), open_spool(redis, staging.store).count()) == (1, 0)
    assert renamed.check("stranded") == []
    renamed.store.close()


def test_a_spool_with_live_workers_or_an_unknown_name_is_not_adopted(
    production: Receiver, staging: Receiver, redis: Redis
) -> None:
    with staging.worker() as worker:
        wait_until(lambda: open_queue(redis, staging.store).count_workers() == 1, what=lambda: worker.log)
        refused = production.run("migrate", "--adopt-spool", staging.namespace, code=1)
    unknown = production.run("migrate", "--adopt-spool", "typo", code=2)

    assert "REDIS_NAMESPACE" in refused
    assert staging.namespace in unknown


def test_a_namespace_with_workers_of_another_database_is_not_drained(
    tmp_path: Path, staging: Receiver, redis: Redis
) -> None:
    # Two receivers that both call their database "db" derive one namespace.
    shared = {"REDIS_NAMESPACE": staging.namespace}
    other = Receiver(
        tmp_path, "other", f"sqlite:///{tmp_path}/other/store.db", staging.settings["REDIS_URL"], **shared
    )
    with staging.worker() as worker:
        wait_until(lambda: open_queue(redis, staging.store).count_workers() == 1, what=lambda: worker.log)
        redis.xadd(Spool(redis, staging.namespace).key, {"header": "kept", "body": "for its owner"})
        spool = Spool(redis, other.namespace)
        wait_until(lambda: spool.count_unreadable() == 1, what=lambda: worker.log)
        # Its own sweeper must not be the one that empties the spool.
        worker.process.send_signal(signal.SIGSTOP)
        try:
            spool.put(make_delivery(1))
            other.sweep(redis)
            [result] = other.check("namespace", component="workers")
        finally:
            worker.process.send_signal(signal.SIGCONT)

        assert other.count() == 0
        assert result["level"] == "fail"
        assert "REDIS_NAMESPACE" in result["advice"]
        wait_until(lambda: staging.inbox.count_by_state().get("settled") == 1, what=lambda: worker.log)
    other.store.close()


def test_the_keys_of_an_earlier_release_are_migrated(staging: Receiver, redis: Redis) -> None:
    old_spool = Spool(redis, UNNAMED)
    redis.xadd("rapidbridge:spool", {"header": "not JSON", "body": "x"})
    for number in range(20):
        old_spool.put(make_delivery(number))
    redis.srem("rapidbridge:namespaces", "")
    old_queue = Queue("rapidbridge", connection=redis, serializer=JSONSerializer)
    old_queue.enqueue_call("workers.jobs.deliver", args=([],))

    with staging.worker() as worker:
        wait_until(
            lambda: staging.inbox.count_by_state().get("settled") == 20, timeout_s=40, what=lambda: worker.log
        )
        wait_until(lambda: not redis.exists("rq:queue:rapidbridge"), what=lambda: worker.log)
    assert old_spool.count() == 0
    [unreadable] = staging.check("unreadable")
    assert unreadable["advice"].endswith("rapidbridge migrate --adopt-spool unnamed")


def test_the_keys_of_an_earlier_release_stay_while_its_workers_are_alive(
    staging: Receiver, redis: Redis
) -> None:
    Spool(redis, UNNAMED).put(make_delivery(1))
    redis.delete("rapidbridge:namespaces")
    old_queue = Queue("rapidbridge", connection=redis, serializer=JSONSerializer)
    old_queue.enqueue_call("workers.jobs.deliver", args=([],))
    old_worker = SimpleWorker([old_queue], connection=redis, serializer=JSONSerializer)
    old_worker.register_birth()  # type: ignore[no-untyped-call]  # RQ's own

    staging.migrate_unnamed(redis)

    assert (staging.count(), Spool(redis, UNNAMED).count(), old_queue.count) == (0, 1, 1)
    old_worker.register_death()  # type: ignore[no-untyped-call]  # RQ's own
    staging.migrate_unnamed(redis)
    assert (staging.count(), Spool(redis, UNNAMED).count(), old_queue.count) == (1, 0, 0)


def test_unnamed_deliveries_with_another_secret_are_left_to_their_owner(
    tmp_path: Path, redis_url: str, redis: Redis
) -> None:
    mine = Receiver(tmp_path, "mine", f"sqlite:///{tmp_path}/mine/store.db", redis_url)
    old_spool = Spool(redis, UNNAMED)
    # The last one has no signature: anyone who reaches Redis can write it.
    for number, secret in enumerate((SECRET, OTHER_SECRET, "")):
        old_spool.put(make_delivery(number, secret))
    redis.delete("rapidbridge:namespaces")

    mine.migrate_unnamed(redis)

    assert (mine.count(), old_spool.count()) == (1, 2)
    [stranded] = mine.check("stranded")
    assert stranded["advice"].endswith("rapidbridge migrate --adopt-spool unnamed")
    adopted = mine.run("migrate", "--adopt-spool", "unnamed")
    assert "2 deliveries left in the spool of unnamed" in " ".join(adopted.split())
    assert (mine.count(), old_spool.count()) == (1, 2)
    mine.settings["TRUTO_WEBHOOK_SECRET"] = f"{SECRET},{OTHER_SECRET}"
    mine.run("migrate", "--adopt-spool", "unnamed")
    assert (mine.count(), old_spool.count()) == (2, 1)
    mine.store.close()


def test_a_forged_delivery_never_reaches_the_sinks_and_doctor_names_the_remedy(
    staging: Receiver, redis: Redis
) -> None:
    spool = open_spool(redis, staging.store)
    spool.put(make_delivery(1, OTHER_SECRET))
    spool.put(make_delivery(2))

    staging.sweep(redis)

    assert (staging.count(), spool.count(), spool.count_unreadable()) == (1, 0, 1)
    [result] = staging.check("unreadable")
    command = f"rapidbridge migrate --adopt-spool {staging.namespace}"
    assert (result["level"], result["advice"].endswith(command)) == ("warn", True)
    staging.run(*command.split()[1:])
    assert (staging.count(), spool.count_unreadable()) == (1, 1)
    staging.settings["TRUTO_WEBHOOK_SECRET"] = f"{SECRET},{OTHER_SECRET}"
    assert "Moved 1 delivery to the inbox." in staging.run(*command.split()[1:])
    assert (staging.count(), spool.count_unreadable()) == (2, 0)


def test_a_worker_without_the_secret_keeps_the_spool_and_names_the_setting(
    staging: Receiver, redis: Redis
) -> None:
    spool = open_spool(redis, staging.store)
    spool.put(make_delivery(1))
    del staging.settings["TRUTO_WEBHOOK_SECRET"]

    with staging.worker() as worker:
        worker.wait_for("set TRUTO_WEBHOOK_SECRET for the workers")

    assert (staging.count(), spool.count(), spool.count_unreadable()) == (0, 1, 0)


def test_a_worker_that_died_before_its_database_returned_blocks_the_spool_for_seconds_only(
    staging: Receiver, redis: Redis
) -> None:
    queue, spool = open_queue(redis, staging.store), open_spool(redis, staging.store)
    rq_queue = Queue(queue.name, connection=redis, serializer=JSONSerializer)
    worker = SimpleWorker([rq_queue], "host:aa", connection=redis)
    worker.register_birth()  # type: ignore[no-untyped-call]  # RQ's own
    spool.put(make_delivery(1))
    sweeper = Sweeper(staging.store, queue, spool)
    sweeper.run_once()
    assert spool.count() == 1

    redis.hset(worker.key, "last_heartbeat", utcformat(datetime.now(UTC) - timedelta(seconds=46)))
    sweeper.run_once()

    assert queue.count_workers() == 0
    assert (spool.count(), staging.count()) == (0, 1)


def test_a_worker_of_the_future_does_not_stop_the_drain(staging: Receiver, redis: Redis) -> None:
    queue, spool = open_queue(redis, staging.store), open_spool(redis, staging.store)
    heartbeat = utcformat(datetime.now(UTC) + timedelta(hours=1))
    redis.hset("rq:worker:fake", "last_heartbeat", heartbeat)
    redis.sadd(f"rq:workers:{queue.name}", "rq:worker:fake")
    spool.put(make_delivery(1))

    Sweeper(staging.store, queue, spool).run_once()

    assert spool.count() == 0


def test_a_dead_worker_does_not_look_like_another_receivers(staging: Receiver, redis: Redis) -> None:
    queue = open_queue(redis, staging.store)
    worker = SimpleWorker(
        [Queue(queue.name, connection=redis, serializer=JSONSerializer)], "host:aa", connection=redis
    )
    worker.register_birth()  # type: ignore[no-untyped-call]  # RQ's own
    now = datetime.now(UTC)
    WorkerRegistry(staging.store).record_heartbeat(WorkerRecord("host:aa", now, "", ""), now=now)
    open_spool(redis, staging.store).put(make_delivery(1))
    sweeper = Sweeper(staging.store, queue, open_spool(redis, staging.store))

    sweeper.release_worker("host:aa")
    sweeper.run_once()

    assert queue.list_workers() == WorkerRegistry(staging.store).list_names() == set()
    assert staging.count() == 1
    assert namespace_of(staging.store) == staging.namespace
