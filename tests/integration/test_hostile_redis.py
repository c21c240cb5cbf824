"""Redis in the hands of somebody else: no content of its keys stops a worker or blocks a delivery."""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from redis import Redis

from app.database.engine import Database, open_database
from app.errors import QueueUnavailable
from app.redis.other_receivers import find_other_receivers
from app.redis.queue import IDS_PER_JOB, JOB_FUNCTION, NAMESPACES_KEY
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.store.pending import PendingDeliveries
from app.truto.events import Envelope
from app.web.enqueuer import NewDelivery
from tests.support.processes import Command, find_descendants
from tests.support.redis_keys import namespace_of, open_queue, open_spool
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, make_environment
from workers.background.feeder import Feeder
from workers.background.sweeper import Sweeper

# A worker that ends and starts again takes about a second, a lost job a minute.
SETTLE_TIMEOUT_S = 50


class Site:
    """A store, a Redis and one worker process, with the means of somebody who can write to that Redis."""

    def __init__(self, store: Database, redis: Redis, command: Command) -> None:
        self.store, self.redis, self.command = store, redis, command
        self.inbox = Inbox(store)
        self.queue = open_queue(redis, store)
        self.queue_key = f"rq:queue:{self.queue.name}"
        self._number = 0

    @property
    def worker_name(self) -> str:
        """The name of the worker, once it has registered again after its set was replaced."""
        wait_until(lambda: self.queue.count_workers() == 1, timeout_s=40, what=lambda: self.command.log)
        [name] = self.queue.list_workers()
        return name

    def put(self) -> UUID:
        self._number += 1
        payload = {"integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
        records = {"records": [{"id": str(self._number)}]}
        body = json.dumps({"event": "sync_job_run:record", "payload": payload | records}).encode()
        envelope = Envelope(
            event_id=str(self._number), event="sync_job_run:record", resource="crm/contacts", method="list"
        )
        incoming = IncomingDelivery(body, hashlib.sha256(body).digest(), datetime.now(UTC), envelope)
        return self.inbox.put([incoming])[0].delivery_id

    def add_job(self, id_: str = "", **fields: Any) -> None:
        """Add a job to the queue. fields: replace those of a real job; None leaves one out."""
        job_id = id_ or str(uuid4())
        real = {
            "data": make_data([[]]),
            "origin": self.queue.name,
            "status": "queued",
            "created_at": "2026-11-24T10:00:00.000000Z",
        }
        present: dict[Any, Any] = {
            name: value for name, value in {**real, **fields}.items() if value is not None
        }
        self.redis.hset(f"rq:job:{job_id}", mapping=present)
        self.redis.rpush(self.queue_key, job_id)

    def settle_one(self) -> None:
        """Enqueue a delivery as the web process does, and wait until it is settled."""
        before = self.inbox.count_by_state().get("settled", 0)
        delivery = self.put()
        # If the queue is damaged, the feeder enqueues it.
        with suppress(QueueUnavailable):
            self.queue.enqueue([NewDelivery(delivery)])
        wait_until(
            lambda: self.inbox.count_by_state().get("settled", 0) > before,
            timeout_s=SETTLE_TIMEOUT_S,
            what=lambda: f"the delivery to be settled\n{self.command.log[-4000:]}",
        )

    def find_workers(self) -> list[int]:
        return find_descendants(self.command.pid)


@pytest.fixture
def site(tmp_path: Path, redis_url: str, redis: Redis) -> Iterator[Site]:
    store = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(store)
    settings = make_environment(
        DATABASE_URL=f"sqlite:///{tmp_path}/store.db", REDIS_URL=redis_url, TRUTO_WEBHOOK_SECRET=SECRET
    )
    with Command(["app.cli", "worker", "-n", "1"], folder=tmp_path, environment=settings) as command:
        wait_until(lambda: redis.scard("rq:workers") == 1, what=lambda: f"a worker\n{command.log}")
        site = Site(store, redis, command)
        site.settle_one()
        yield site
    store.close()


def make_data(arguments: Any, function: Any = JOB_FUNCTION, keywords: Any = None) -> bytes:
    return zlib.compress(json.dumps([function, None, arguments, keywords or {}]).encode())


def attack(site: Site, plants: dict[str, Callable[[Site], object]]) -> None:
    """Plant each kind of garbage; a delivery is settled after each, by the worker that was there before."""
    workers = site.find_workers()
    for name, plant in plants.items():
        plant(site)
        site.settle_one()
        assert site.find_workers() == workers, f"{name} ended the worker\n{site.command.log[-4000:]}"
    assert "Traceback" not in site.command.log


JOBS: dict[str, Callable[[Site], object]] = {
    "ids that are none": lambda site: site.add_job(data=make_data([["x", 5, None, {}]])),
    "no list of ids": lambda site: site.add_job(data=make_data([5])),
    "other arguments": lambda site: site.add_job(data=make_data([1, 2, 3], keywords={"x": 1})),
    "arguments of another type": lambda site: site.add_job(data=zlib.compress(b'["x", null, 5, 7]')),
    "a function of another type": lambda site: site.add_job(data=make_data([[]], function=["x"])),
    "no JSON": lambda site: site.add_job(data=b"\x80\x05pickle"),
    "deep JSON": lambda site: site.add_job(data=zlib.compress(b"[" * 60_000)),
    "no data": lambda site: site.add_job(data=None),
    "empty data": lambda site: site.add_job(data=b""),
    "data that inflates": lambda site: site.add_job(data=zlib.compress(b" " * 50_000_000)),
    "large data": lambda site: site.add_job(data=b" " * 50_000_000),
    "retries": lambda site: site.add_job(
        data=make_data(["x"]), retries_left="1000000", retry_intervals="[0]", number_of_retries="0"
    ),
    "retries that are no number": lambda site: site.add_job(retries_left="x"),
    "a result that is kept": lambda site: site.add_job(result_ttl="-1", failure_ttl="-1", ttl="-1"),
    "times to live that are no numbers": lambda site: site.add_job(result_ttl="x", failure_ttl="y", ttl="z"),
    "a timeout of ever": lambda site: site.add_job(timeout="-1"),
    "a timeout that is no number": lambda site: site.add_job(timeout="x"),
    "a long timeout": lambda site: site.add_job(timeout="9" * 30),
    "times that are none": lambda site: site.add_job(
        created_at="x", enqueued_at="9999", started_at="-", ended_at="\xff", last_heartbeat="0"
    ),
    "a status that is none": lambda site: site.add_job(status="x"),
    "dependencies": lambda site: site.add_job(dependency_ids='["x"]', allow_dependency_failures="x"),
    "dependencies that are no JSON": lambda site: site.add_job(dependency_ids="x"),
    "a group": lambda site: site.add_job(group_id="x"),
    "a rate limit": lambda site: site.add_job(rate_limit_key="x", rate_limit_concurrency="0"),
    "repeats": lambda site: site.add_job(repeats_left="1000000", repeat_intervals="[0]"),
    "callbacks": lambda site: site.add_job(
        success_callback_name="os.abort", failure_callback_timeout="x", stopped_callback_name=b"\xff"
    ),
    "bytes that are no text": lambda site: site.add_job(
        origin=b"\xff", description=b"\xff", worker_name=b"\xff", meta=b"\xff", result=b"\xff"
    ),
    "an unknown field": lambda site: site.redis.hset(_add_and_get_key(site), b"\xff\xfe", b"\xff"),
    "another queue": lambda site: site.add_job(origin="another"),
    "many ids": lambda site: site.add_job(data=make_data([[str(uuid4()) for _ in range(70_000)]])),
    "an id without a hash": lambda site: site.redis.rpush(site.queue_key, "none", "x" * 100_000, ""),
    "an id that is no text": lambda site: site.redis.rpush(site.queue_key, b"\xff\xfe"),
    "an id with a line": lambda site: site.add_job("a\nevent=forged\x1b[2J"),
    "a hash of another type": lambda site: (
        site.redis.set("rq:job:text", "x"),
        site.redis.rpush(site.queue_key, "text"),
    ),
    "many hashes of another type": lambda site: (
        site.redis.set("rq:job:text", "x"),
        site.redis.rpush(site.queue_key, *["text"] * 500),
    ),
}


def _add_and_get_key(site: Site) -> str:
    site.redis.hset("rq:job:unknown", mapping={"data": make_data([[]])})
    site.redis.rpush(site.queue_key, "unknown")
    return "rq:job:unknown"


def test_no_job_stops_a_worker(site: Site) -> None:
    attack(site, JOBS)

    assert "event=forged" not in site.command.log.replace("\ufffdevent=forged", "")
    assert site.redis.llen(site.queue_key) == 0


def _replace_with_hash(template: str) -> Callable[[Site], object]:
    def plant(site: Site) -> None:
        key = template.format(site.queue.name)
        site.redis.delete(key)
        site.redis.hset(key, "x", "y")

    return plant


def _fill_registries(site: Site) -> None:
    for registry in ("wip", "failed", "finished", "deferred", "scheduled", "ready"):
        key = f"rq:{registry}:{site.queue.name}"
        site.redis.delete(key)
        site.redis.zadd(key, {b"\xff\xfe": 1, b"x:y:z": 2, b"": 3})


KEYS: dict[str, Callable[[Site], object]] = {
    **{
        f"a hash instead of {key}": _replace_with_hash(key)
        for key in (
            "rq:queue:{}",
            "rq:queue:{}:intermediate",
            "rq:workers",
            "rq:workers:{}",
            "rq:queues",
            "rq:wip:{}",
            "rq:failed:{}",
            "rq:finished:{}",
            "rq:deferred:{}",
            "rq:ready:{}",
            "rq:groups",
        )
    },
    "garbage in the worker's hash": lambda site: site.redis.hset(
        f"rq:worker:{site.worker_name}",
        mapping={
            **dict.fromkeys(("birth", "last_heartbeat", "pid", "queues", "state"), b"\xff"),
            **dict.fromkeys(("successful_job_count", "failed_job_count", "total_working_time"), "x"),
        },
    ),
    "a text instead of the worker's hash": lambda site: _replace_with_text(
        site, f"rq:worker:{site.worker_name}"
    ),
    "a text instead of the worker's executions": lambda site: _replace_with_text(
        site, f"rq:worker:{site.worker_name}:executions"
    ),
    "a dead worker's hash": lambda site: site.redis.hset(
        f"rq:worker:{site.worker_name}", "death", "2026-11-24T10:00:00.000000Z"
    ),
    "workers suspended": lambda site: site.redis.set("rq:suspended", 1),
    "a held lock": lambda site: site.redis.set(f"rq:clean_registries:{site.queue.name}", 1),
    "garbage in registries": _fill_registries,
    "garbage in the intermediate queue": lambda site: site.redis.rpush(
        f"{site.queue_key}:intermediate", b"\xff\xfe", "", "x"
    ),
    "a long queue": lambda site: [
        site.redis.rpush(site.queue_key, *(f"none-{number}" for number in range(start, start + 10_000)))
        for start in range(0, 300_000, 10_000)
    ],
}


def _replace_with_text(site: Site, key: str) -> None:
    site.redis.delete(key)
    site.redis.set(key, "x")


def test_no_key_of_another_type_or_content_stops_a_worker(site: Site) -> None:
    attack(site, KEYS)


@pytest.mark.parametrize("command", ["shutdown", "kill-horse", "stop-job", "x", None])
def test_no_command_through_redis_ends_a_worker(site: Site, command: str | None) -> None:
    workers = site.find_workers()

    text = json.dumps({"command": command}) if command else "no JSON"
    site.redis.publish(f"rq:pubsub:{site.worker_name}", text)
    site.settle_one()

    assert site.find_workers() == workers
    assert "Traceback" not in site.command.log


def test_jobs_that_fail_are_few_lines_in_the_log(site: Site) -> None:
    lines = len(site.command.log.splitlines())
    for _ in range(300):
        site.add_job(data=make_data([["no id"]]))
    site.settle_one()
    wait_until(lambda: site.redis.llen(site.queue_key) == 0, timeout_s=30, what="the jobs to be done")

    assert len(site.command.log.splitlines()) - lines < 20


def test_maintenance_survives_garbage(site: Site, tmp_path: Path) -> None:
    site.redis.zadd(f"rq:wip:{site.queue.name}", {b"\xff\xfe": 1})
    site.redis.sadd("rq:groups", "x")
    site.redis.set("rq:group:x", "no set")

    # A new worker begins with maintenance.
    settings = make_environment(
        DATABASE_URL=f"sqlite:///{tmp_path}/store.db",
        REDIS_URL=site.redis.connection_pool.connection_kwargs.get("path", ""),
        TRUTO_WEBHOOK_SECRET=SECRET,
    )
    settings["REDIS_URL"] = f"unix://{settings['REDIS_URL']}"
    with Command(["app.cli", "worker", "-n", "1"], folder=tmp_path, environment=settings) as command:
        wait_until(lambda: site.queue.count_workers() == 2, what=lambda: f"a second worker\n{command.log}")
        site.settle_one()
        wait_until(lambda: not site.redis.exists(f"rq:wip:{site.queue.name}"), what=lambda: command.log)
        assert "Traceback" not in command.log


def test_a_job_has_no_more_ids_than_the_receiver_enqueues(site: Site) -> None:
    ids = [site.put() for _ in range(IDS_PER_JOB + 8)]

    site.add_job(data=make_data([[str(id_) for id_ in ids]]))

    # The feeder enqueues the others.
    wait_until(
        lambda: site.inbox.count_by_state().get("settled", 0) == len(ids) + 1,
        timeout_s=SETTLE_TIMEOUT_S,
        what=lambda: site.command.log,
    )


def test_workers_are_counted_whatever_redis_says_about_them(redis: Redis, tmp_path: Path) -> None:
    store = open_database(f"sqlite:///{tmp_path}/store.db")
    queue = open_queue(redis, store)
    beats: dict[str, str | bytes] = {
        "live": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        # The clock of another machine.
        "ahead": (datetime.now(UTC) + timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "far ahead": (datetime.now(UTC) + timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "dead": (datetime.now(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "far": "9999-12-31T00:00:00.000000Z",
        "none": "x",
        "bytes": b"\xff\xfe",
    }
    for name, beat in beats.items():
        redis.hset(f"rq:worker:{name}", mapping={"last_heartbeat": beat, "pid": "x", "birth": "y"})
    redis.set("rq:worker:text", "x")
    redis.hset("rq:worker:silent", "pid", 1)
    redis.sadd(
        f"rq:workers:{queue.name}",
        *(f"rq:worker:{name}" for name in (*beats, "text", "silent", "gone")),
        b"\xff\xfe",
        "x",
    )

    assert queue.list_workers() == {"live", "ahead"}
    store.close()


def test_other_receivers_are_shown_by_names_that_can_be_pasted(redis: Redis) -> None:
    redis.sadd(NAMESPACES_KEY, "good", "a; rm -rf ~", "$(id)", "\x1b[2J", b"\xff\xfe", "x" * 1000)
    redis.set("rapidbridge:broken:spool", "no stream")
    redis.sadd(NAMESPACES_KEY, "broken")
    for name in ("good", "a; rm -rf ~", "$(id)"):
        redis.xadd(f"rapidbridge:{name}:spool", {"header": "x"})

    assert [other.namespace for other in find_other_receivers(redis, "mine")] == ["good"]


def test_a_delivery_is_spooled_while_the_set_of_namespaces_is_damaged(redis: Redis, tmp_path: Path) -> None:
    store = open_database(f"sqlite:///{tmp_path}/store.db")
    spool = open_spool(redis, store)
    delivery = IncomingDelivery(b"{}", b"x" * 32, datetime(2026, 1, 1, tzinfo=UTC))
    redis.set(NAMESPACES_KEY, "no set")

    assert spool.put(delivery).is_spooled
    assert spool.count() == 1

    redis.set(spool.key, "no stream")
    with pytest.raises(QueueUnavailable):
        spool.put(delivery)
    store.close()


def test_the_sweeper_replaces_keys_that_are_not_its_own(redis: Redis, tmp_path: Path) -> None:
    store = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(store)
    queue, spool = open_queue(redis, store), open_spool(redis, store)
    redis.set(f"rq:queue:{queue.name}", "no list")
    redis.set(spool.key, "no stream")
    redis.set(NAMESPACES_KEY, "no set")
    incoming = IncomingDelivery(b"{}", b"x" * 32, datetime(2026, 1, 1, tzinfo=UTC))
    Inbox(store).put([incoming])

    Sweeper(store, queue, spool).run_once()
    Feeder(store, queue).run_once()

    assert redis.llen(f"rq:queue:{queue.name}") == 1
    assert spool.count() == 0
    assert cast("set[bytes]", redis.smembers(NAMESPACES_KEY)) == {namespace_of(store).encode()}
    assert PendingDeliveries(store).find_oldest_received_at()
    store.close()
