"""Acknowledged deliveries are kept while the database or Redis is down, stalled or full."""

import json
import os
import resource
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
import pytest
from redis import Redis
from sqlalchemy import text

from app.database.engine import Database, open_database
from app.redis.connection import connect_redis
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery, Receipt
from app.truto.signature import parse_signature_header, sign
from tests.support.postgres import PostgresServer
from tests.support.processes import find_descendants
from tests.support.redis_keys import open_queue, open_spool
from tests.support.valkey import ValkeyServer
from tests.support.waiting import measure_slowdown, wait_until
from tests.support.web_process import SECRET, ParsedResponse, WebProcess
from workers.background.sweeper import Sweeper

# A sender's longest wait: the timeout of the database, then that of Redis, and some time to spare.
MAX_RESPONSE_S = 8.0
MIB = 1024 * 1024


@pytest.fixture
def store(private_postgres: PostgresServer) -> Iterator[Database]:
    with private_postgres.database() as url:
        engine = open_database(url)
        migrate(engine)
        yield engine
        engine.close()


@pytest.fixture
def web(tmp_path: Path, store: Database, private_valkey: ValkeyServer) -> Iterator[WebProcess]:
    url = store.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    (tmp_path / "routes.toml").write_text(
        '[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n\n[[routes]]\nsinks = ["main"]\n\n'
        '[[refuse]]\nintegrated_account_id = "sandbox-*"\nreason = "a sandbox"\n'
    )
    routes = str(tmp_path / "routes.toml")
    with WebProcess(tmp_path, database_url=url, redis_url=private_valkey.url, ROUTES_FILE=routes) as process:
        yield process


def body(name: str, event: str = "sync_job_run:record", **payload: object) -> bytes:
    return json.dumps({"id": name, "event": event, "payload": payload}).encode()


def post_all(web: WebProcess, bodies: list[bytes]) -> tuple[list[ParsedResponse], float]:
    """Post all at once; return the answers and the slowest time, in seconds."""

    def post(one: bytes) -> tuple[ParsedResponse, float]:
        started = time.monotonic()
        return web.post(one), time.monotonic() - started

    with ThreadPoolExecutor(len(bodies)) as senders:
        answers, times = zip(*senders.map(post, bodies), strict=True)
    return list(answers), max(times)


def cut_connections(store: Database) -> None:
    # An idle connection of the pool could be one that was cut before.
    store.close()
    with store.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


def sweep(store: Database, private_redis: Redis) -> None:
    Sweeper(store, open_queue(private_redis, store), open_spool(private_redis, store)).run_once()


def assert_all_stored(store: Database, answers: list[ParsedResponse], bodies: list[bytes]) -> None:
    inbox = Inbox(store)
    stored = [inbox.read_body(UUID(answer.delivery)) for answer in answers if answer.delivery]
    assert stored == bodies


def test_dead_idle_connections_leave_the_process_ready(web: WebProcess, store: Database) -> None:
    def read_store_check() -> object:
        return httpx.get(f"{web.url}/readyz").json()["store"]

    before = read_store_check()
    cut_connections(store)

    assert (before, read_store_check()) == ("ok", "ok")


def test_deliveries_wait_in_redis_while_the_database_is_down(
    web: WebProcess, private_postgres: PostgresServer, store: Database, private_redis: Redis
) -> None:
    bodies = [body("text", records=["é\u2028"]), b'\xff{"id": 1}', body("\ud800\0"), body("gone")]
    private_postgres.kill()
    try:
        answers, took_s = post_all(web, bodies)
        ready = httpx.get(f"{web.url}/readyz")
        sweep(store, private_redis)
        waiting = private_redis.xlen(open_spool(private_redis, store).key)
    finally:
        private_postgres.start()

    assert [answer.http_status for answer in answers] == [200] * 4
    assert took_s < MAX_RESPONSE_S * measure_slowdown()
    assert waiting == 4
    assert ready.status_code == 503
    assert ready.json()["spool"] == "4 deliveries wait in Redis for the database"

    sweep(store, private_redis)

    assert private_redis.xlen(open_spool(private_redis, store).key) == 0
    assert_all_stored(store, answers, bodies)
    wait_until(lambda: web.post(body("new")).http_status == 200 and "store.recovered" in web.log)
    late = private_redis.xlen(open_spool(private_redis, store).key)
    assert web.post(body("newest")).http_status == 200
    assert private_redis.xlen(open_spool(private_redis, store).key) == late


def test_a_stalled_database_delays_the_first_delivery_only(
    web: WebProcess, private_postgres: PostgresServer, store: Database, private_redis: Redis
) -> None:
    bodies = [body(f"stalled {number}") for number in range(12)]
    with private_postgres.stalled():
        answers, took_s = post_all(web, bodies)
        later, later_s = post_all(web, [body(f"later {number}") for number in range(12)])

    assert {answer.status for answer in answers + later} == {"accepted"}
    assert took_s < MAX_RESPONSE_S * measure_slowdown()
    # One of them tries the store again; the others go to the spool at once.
    assert later_s < MAX_RESPONSE_S * measure_slowdown()
    sweep(store, private_redis)
    assert_all_stored(store, answers, bodies)


def test_a_read_only_database_is_unavailable(web: WebProcess, store: Database, private_redis: Redis) -> None:
    url = store.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")

    def make_read_only(word: str) -> None:
        with psycopg.connect(
            url, autocommit=True, options="-c default_transaction_read_only=off"
        ) as connection:
            connection.execute(
                f"ALTER DATABASE {connection.info.dbname} SET default_transaction_read_only = {word}"
            )
        # Open connections keep the old setting.
        cut_connections(store)

    make_read_only("on")
    bodies = [body(f"read-only {number}") for number in range(8)]
    answers, took_s = post_all(web, bodies)
    make_read_only("off")
    sweep(store, private_redis)

    assert {answer.status for answer in answers} == {"accepted"}
    assert took_s < MAX_RESPONSE_S * measure_slowdown()
    assert_all_stored(store, answers, bodies)


def test_a_full_disk_is_unavailable(
    tmp_path: Path, private_valkey: ValkeyServer, private_redis: Redis
) -> None:
    store = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(store)
    with WebProcess(
        tmp_path, database_url=f"sqlite:///{tmp_path}/store.db", redis_url=private_valkey.url
    ) as web:
        [server] = find_descendants(web.pid)
        # No file of this process can grow, as on a full disk.
        resource.prlimit(server, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        bodies = [body(f"full {number}", records=["x" * 5000]) for number in range(8)]
        answers, _ = post_all(web, bodies)
        resource.prlimit(server, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        spooled = private_redis.xlen(open_spool(private_redis, store).key)
        sweep(store, private_redis)

        assert {answer.status for answer in answers} == {"accepted"}
        assert spooled == 8
        assert_all_stored(store, answers, bodies)
        wait_until(lambda: web.post(body("new")).http_status == 200 and "store.recovered" in web.log)
    store.close()


def test_a_postgresql_that_cannot_grow_is_unavailable(
    web: WebProcess, private_postgres: PostgresServer, store: Database, private_redis: Redis
) -> None:
    def allow_files_of(max_bytes: int | str) -> None:
        # Applies to new connections.
        private_postgres.run("prlimit", "--pid", str(private_postgres.pid), f"--fsize={max_bytes}:")

    bodies = [body(f"large {number}", records=[os.urandom(600_000).hex()]) for number in range(30)]
    # Files of its log have 16 MiB and still fit: only the table cannot grow.
    allow_files_of(16 * MIB)
    try:
        answers, took_s = post_all(web, bodies)
        spooled = private_redis.xlen(open_spool(private_redis, store).key)
        assert web.post(body("small")).http_status == 200
    finally:
        allow_files_of("unlimited")
    cut_connections(store)
    sweep(store, private_redis)

    assert {answer.status for answer in answers} == {"accepted"}
    assert took_s < MAX_RESPONSE_S * measure_slowdown()
    assert spooled > 0
    assert_all_stored(store, answers, bodies)


@pytest.mark.parametrize("way", ["dead", "stalled", "full"])
def test_without_database_and_redis_the_answer_is_503(
    web: WebProcess,
    private_postgres: PostgresServer,
    private_valkey: ValkeyServer,
    private_redis: Redis,
    way: str,
) -> None:
    private_postgres.kill()
    try:
        if way == "dead":
            private_valkey.kill()
            answers, took_s = post_all(web, [body("1"), body("2")])
        elif way == "stalled":
            with private_valkey.stalled():
                answers, took_s = post_all(web, [body("1"), body("2")])
        else:
            private_redis.config_set("maxmemory", 1)
            answers, took_s = post_all(web, [body("1"), body("2")])
    finally:
        private_postgres.start()

    assert {(answer.http_status, answer.status) for answer in answers} == {(503, "unavailable")}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
    assert took_s < MAX_RESPONSE_S * measure_slowdown()
    wait_until(lambda: web.post(body("1")).http_status == 200, what=lambda: f"the store\n{web.log}")


def test_an_unmigrated_database_loses_no_delivery(
    tmp_path: Path, private_valkey: ValkeyServer, private_redis: Redis
) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    with WebProcess(tmp_path, database_url=url, redis_url=private_valkey.url) as web:
        answer = web.post(body("early"))
        ready = httpx.get(f"{web.url}/readyz")
    store = open_database(url)
    migrate(store)
    sweep(store, private_redis)

    assert "rapidbridge migrate" in ready.json()["store"]
    assert_all_stored(store, [answer], [body("early")])
    store.close()


def test_a_refused_start_is_spooled_while_the_database_is_down(
    web: WebProcess, private_postgres: PostgresServer, store: Database, private_redis: Redis
) -> None:
    started = body("r", "sync_job_run:started", id="run", integrated_account_id="sandbox-1")
    private_postgres.kill()
    try:
        answer = web.post(started)
    finally:
        private_postgres.start()
    sweep(store, private_redis)

    assert (answer.http_status, answer.status) == (400, "refused")
    assert_all_stored(store, [answer], [started])
    assert Inbox(store).count_by_state()["refused"] == 1


def test_concurrent_and_interrupted_drains_store_every_delivery_once(
    web: WebProcess, private_postgres: PostgresServer, store: Database, private_redis: Redis
) -> None:
    bodies = [body(f"spooled {number}") for number in range(60)]
    private_postgres.kill()
    try:
        answers, _ = post_all(web, bodies)
    finally:
        private_postgres.start()

    def die(_moved: object) -> None:
        raise KeyboardInterrupt

    def half(spool: Spool) -> None:
        # Stored, but the process dies before it deletes the deliveries from the spool.
        with pytest.raises(KeyboardInterrupt):
            spool.drain(lambda arrivals: die(Inbox(store).put(arrivals)))

    half(open_spool(private_redis, store))
    with ThreadPoolExecutor(4) as drainers:
        list(drainers.map(lambda _: open_spool(private_redis, store).drain(Inbox(store).put), range(4)))

    assert private_redis.xlen(open_spool(private_redis, store).key) == 0
    assert_all_stored(store, answers, bodies)
    assert Inbox(store).count_by_state()["pending"] == 60


def test_deliveries_spooled_by_an_earlier_release_are_drained(store: Database, private_redis: Redis) -> None:
    spooled = body("of before", records=[{"id": "1"}])
    mac = parse_signature_header(sign(spooled, SECRET))
    header = {"received_at": "2026-11-24T10:00:00+00:00", "state": "pending", "digest": mac.hex()}
    private_redis.xadd(
        open_spool(private_redis, store).key,
        {"header": json.dumps(header), "body": zlib.compress(spooled, 1)},
    )
    receipts: list[Receipt] = []

    moved = open_spool(private_redis, store).drain(lambda group: receipts.extend(Inbox(store).put(group)))

    assert (
        moved,
        private_redis.xlen(open_spool(private_redis, store).key),
        private_redis.xlen(open_spool(private_redis, store).unreadable_key),
    ) == (1, 0, 0)
    assert Inbox(store).read_body(receipts[0].delivery_id) == spooled


def test_an_unreadable_spool_entry_blocks_no_other(store: Database, private_redis: Redis) -> None:
    spool, inbox = open_spool(private_redis, store), Inbox(store)
    arrivals = [
        IncomingDelivery(page, parse_signature_header(sign(page, SECRET)), datetime.now(UTC))
        for page in (body(f"{n}", records=["x" * 9_000_000]) for n in range(5))
    ]
    private_redis.xadd(open_spool(private_redis, store).key, {"header": "no JSON", "body": b"no body"})
    for arrival in arrivals[:3]:
        spool.put(arrival)
    private_redis.xadd(open_spool(private_redis, store).key, {"another": "release's"})
    for arrival in arrivals[3:]:
        spool.put(arrival)
    sizes: list[int] = []

    moved = spool.drain(lambda group: sizes.append(len(group)) or inbox.put(group))  # type: ignore[func-returns-value]  # counts them

    assert (
        moved,
        private_redis.xlen(open_spool(private_redis, store).key),
        private_redis.xlen(open_spool(private_redis, store).unreadable_key),
    ) == (5, 0, 2)
    assert inbox.count_by_state()["pending"] == 5
    # Two bodies of 9 MB exceed the limit of a step.
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("way", ["dead", "stalled", "full", "wiped"])
def test_deliveries_are_accepted_whatever_redis_does(
    web: WebProcess, private_valkey: ValkeyServer, private_redis: Redis, store: Database, way: str
) -> None:
    bodies = [body(f"{way} {number}") for number in range(20)]
    if way == "stalled":
        with private_valkey.stalled():
            answers, took_s = post_all(web, bodies)
            ready = httpx.get(f"{web.url}/readyz", timeout=30)
    else:
        if way == "dead":
            private_valkey.kill()
        elif way == "full":
            private_redis.config_set("maxmemory", 1)
        else:
            private_redis.flushall()
        answers, took_s = post_all(web, bodies)
        ready = httpx.get(f"{web.url}/readyz", timeout=30)

    assert {answer.status for answer in answers} == {"accepted"}
    assert took_s < 2 * measure_slowdown()
    assert_all_stored(store, answers, bodies)
    if way in ("dead", "stalled"):
        assert "REDIS_URL" in ready.json()["redis"]


def test_a_stalled_redis_is_an_error_within_seconds(private_valkey: ValkeyServer) -> None:
    queue = DeliveryQueue(connect_redis(private_valkey.url, tls_verify=True), "test")
    queue.ping()
    started = time.monotonic()
    with private_valkey.stalled(), pytest.raises(Exception, match="REDIS_URL"):
        queue.count_queued()

    assert time.monotonic() - started < 4 * measure_slowdown()
