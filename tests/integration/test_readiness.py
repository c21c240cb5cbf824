"""GET /readyz under load: one check at a time, beside signed deliveries."""

import json
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import httpx
import psycopg
from redis import Redis

from app.database.engine import open_database
from app.errors import StoreUnavailable
from app.store.notifications import Notification, Notifications
from app.store.response_counts import ResponseCounts
from app.truto.signature import sign
from tests.integration.test_http import event
from tests.integration.test_store_faults import migrate_store
from tests.support.postgres import PostgresServer
from tests.support.redis_keys import open_spool
from tests.support.service import running_whole_service
from tests.support.waiting import measure_slowdown, wait_until
from tests.support.web_process import ROOT, WebProcess

CONNECTIONS = 200
REQUEST = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"


# Garbage collection would hide a leak.
CUT_OFF = """
from gevent import monkey
monkey.patch_all()
import gc, sys
import gevent
from sqlalchemy import text
from app.database.engine import open_database
gc.disable()
database = open_database(sys.argv[1], max_connections=1)
number = 0
for _ in range(4):
    try:
        with gevent.Timeout(0.5):
            database.read(text("SELECT 1"))
    except gevent.Timeout:
        number += 1
print(number, "cut off", flush=True)
sys.stdin.read()
"""


class ReadinessFlood:
    """Connections that request /readyz again after each answer. answers: their number so far."""

    def __init__(self, port: int, connections: int) -> None:
        self.answers = 0
        self._stopped = threading.Event()
        self._address = ("127.0.0.1", port)
        self._connections = connections

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for _ in range(self._connections):
                self._connect(selector)
            while not self._stopped.is_set():
                for key, _ in selector.select(timeout=0.1):
                    connection = cast("socket.socket", key.fileobj)
                    if not self._exchange(connection):
                        # The receiver closes connections of a flood.
                        selector.unregister(connection)
                        connection.close()
                        self._connect(selector)
            for key in list(selector.get_map().values()):
                cast("socket.socket", key.fileobj).close()

    def _connect(self, selector: selectors.BaseSelector) -> None:
        connection = socket.create_connection(self._address, timeout=20)
        connection.sendall(REQUEST)
        selector.register(connection, selectors.EVENT_READ)

    def _exchange(self, connection: socket.socket) -> bool:
        """Receive an answer and send the next request; return False if the connection has ended."""
        try:
            if not connection.recv(65536):
                return False
            self.answers += 1
            connection.sendall(REQUEST)
        except ConnectionError:
            return False
        return True

    def stop(self) -> None:
        self._stopped.set()


@contextmanager
def readiness_flood(port: int) -> Iterator[ReadinessFlood]:
    flood = ReadinessFlood(port, CONNECTIONS)
    thread = threading.Thread(target=flood.run)
    thread.start()
    try:
        yield flood
    finally:
        flood.stop()
        thread.join()


def count_sessions(connection: psycopg.Connection) -> int:
    """Return the number of other sessions in the connection's database."""
    [(number,)] = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchall()
    return int(number)


def test_readiness_requests_take_no_connection_from_signed_deliveries(
    postgres_url: str, redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    migrate_store(postgres_url)
    store = open_database(postgres_url)
    sessions = set()
    with (
        WebProcess(tmp_path, database_url=postgres_url, redis_url=redis_url) as web,
        psycopg.connect(postgres_url, autocommit=True) as connection,
        readiness_flood(web.port) as flood,
    ):
        wait_until(lambda: flood.answers >= CONNECTIONS, what="a first answer on every connection")
        before = flood.answers
        statuses: list[str] = []
        while len(statuses) < 30 or (flood.answers < before + CONNECTIONS and len(statuses) < 3000):
            statuses.append(web.post(event(id_=f"flooded-{len(statuses)}")).status)
            sessions.add(count_sessions(connection))
        spooled = open_spool(redis, store).count()
        log = web.log
    store.close()

    assert flood.answers >= before + CONNECTIONS
    assert set(statuses) == {"accepted"}
    assert spooled == 0
    assert "spooled=True" not in log
    assert "store.unavailable" not in log
    # Two or three commit, one checks.
    assert max(sessions) <= 4


def test_checks_that_hang_are_answered_in_time_and_leave_nothing_behind(
    private_postgres: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    with private_postgres.database() as url:
        migrate_store(url)
        with WebProcess(tmp_path, database_url=url, redis_url=redis_url) as web:
            assert web.request("GET", "/readyz").http_status == 503
            wait_until(lambda: httpx.get(f"{web.url}/readyz").json()["store"] == "ok", what="a ready store")
            with private_postgres.stalled(), ThreadPoolExecutor(20) as pool:
                wait_until(lambda: httpx.get(f"{web.url}/readyz", timeout=60).json()["store"] != "ok")
                started = time.monotonic()
                answers = list(pool.map(lambda _: httpx.get(f"{web.url}/readyz", timeout=60), range(40)))
                took_s = time.monotonic() - started
            wait_until(lambda: httpx.get(f"{web.url}/readyz").json()["store"] == "ok", what="a ready store")
            with psycopg.connect(url, autocommit=True) as connection:
                wait_until(lambda: count_sessions(connection) <= 2, what="few sessions")

    assert {answer.json()["store"] for answer in answers} == {"no answer within 4 s"}
    # Two rounds, not 40.
    assert took_s < 15 * measure_slowdown()


def test_attempts_to_connect_that_are_cut_off_leave_no_session(private_postgres: PostgresServer) -> None:
    with private_postgres.database() as url, psycopg.connect(url, autocommit=True) as connection:
        with private_postgres.stalled():
            cut_off = subprocess.Popen(
                [sys.executable, "-c", CUT_OFF, url], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert cut_off.stdout is not None
            assert cut_off.stdout.readline() == b"4 cut off\n"
        try:
            # The server begins these sessions in their order, and so has ended the others before this one.
            with psycopg.connect(url):
                wait_until(lambda: count_sessions(connection) == 1, what="no session of the process")
        finally:
            cut_off.communicate()


def test_wrong_signatures_are_shown_and_leave_the_receiver_ready_and_its_answer_public(
    postgres_url: str, redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    with running_whole_service(tmp_path, postgres_url, REDIS_URL=redis_url) as service:
        url = service.webhook_url
        readyz = url.replace("/webhooks/truto", "/readyz")
        wait_until(lambda: httpx.get(readyz).status_code == 200, what="a ready service")
        for number in range(36):
            body = event(id_=f"wrong-{number}", resource="crm/secret-name")
            headers = {"X-Truto-Signature": sign(body, "another secret")}
            assert httpx.post(url, content=body, headers=headers).status_code == 401
        for _ in range(5):
            assert httpx.post(url, content=b"{}").status_code == 401
        wait_until(lambda: "36 requests" in httpx.get(readyz).text, what=lambda: httpx.get(readyz).text)
        ready = httpx.get(readyz)
        ran = service.rapidbridge("doctor", "--no-post", "--json")

    assert ready.status_code == 200
    assert ready.json()["status"] == "ok"
    # Requests without a signature header, such as a scanner's, are no warning.
    assert list(ready.json()["warnings"]) == ["signatures"]
    assert "rapidbridge doctor" in ready.json()["warnings"]["signatures"]
    assert "crm" not in ready.text
    [result] = [check for check in json.loads(ran.stdout)["checks"] if check["check"] == "signatures"]
    assert (ran.returncode, result["level"]) == (1, "fail")
    assert "36 requests" in result["message"]
    assert "rapidbridge webhook create" in result["advice"]


def test_counts_wait_in_memory_while_the_database_is_away(
    private_postgres: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    with private_postgres.database() as url:
        migrate_store(url)
        store = open_database(url)
        with WebProcess(tmp_path, database_url=url, redis_url=redis_url) as web:
            private_postgres.kill()
            for number in range(4):
                assert web.post(event(id_=f"away-{number}"), "v=" + "0" * 64).http_status == 401
            wait_until(lambda: "responses.uncounted" in web.log, what=lambda: web.log)
            private_postgres.start()

            def count_wrong() -> int:
                with suppress(StoreUnavailable):
                    counts = ResponseCounts(store).list_since(datetime.now(UTC) - timedelta(hours=1))
                    return sum(count.number for count in counts if count.cause == "wrong")
                return 0

            wait_until(lambda: count_wrong() == 4, what="the counts in the store")
        store.close()


def test_conditions_are_warnings_of_a_public_answer(
    postgres_url: str, redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    migrate_store(postgres_url)
    store = open_database(postgres_url)
    now = datetime.now(UTC)
    names = ("private-resource", "private-webhook", "private-sink", "private-run")
    conditions = [
        Notification("key.missing", "private-resource", "c", now, {}),
        Notification("account.unknown", "private-webhook", "c", now, {}),
        Notification("sink.failing", "private-sink", "c", now, {}),
        Notification("run.stalled", "private-run", "c", now, {}),
    ]
    with WebProcess(tmp_path, database_url=postgres_url, redis_url=redis_url) as web:
        before = httpx.get(f"{web.url}/readyz").json()
        notifications = Notifications(store)
        for condition in conditions:
            notifications.open(condition)
        notifications.add(Notification("run.incomplete", "private-run", "c", now, {}))
        assert web.post(b"not json").status == "quarantined"
        redis.xadd(open_spool(redis, store).unreadable_key, {"header": "x"})
        wait_until(lambda: "warnings" in httpx.get(f"{web.url}/readyz").json(), what="warnings")
        ready = httpx.get(f"{web.url}/readyz")
        for condition in conditions:
            notifications.close(condition.kind, condition.subject, now=now)
        wait_until(lambda: "sinks" not in httpx.get(f"{web.url}/readyz").json()["warnings"])
    store.close()

    assert "warnings" not in before
    warnings = ready.json()["warnings"]
    assert warnings.keys() == {
        "keys", "accounts", "sinks", "stalled_runs", "incomplete_runs", "failed_deliveries", "unreadable"
    }  # fmt: skip
    assert "1 failed delivery: 1 not_json" in warnings["failed_deliveries"]
    assert all("run: rapidbridge " in warning for warning in warnings.values())
    assert not [name for name in names if name in ready.text]


def test_warnings_that_cannot_be_read_fail_no_check(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    migrate_store(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP TABLE rapidbridge_response_counts")
    with WebProcess(tmp_path, database_url=postgres_url, redis_url=redis_url) as web:
        accepted = web.post(event(id_="uncounted"))
        ready = httpx.get(f"{web.url}/readyz").json()

    assert accepted.status == "accepted"
    assert (ready["store"], list(ready["warnings"])) == ("ok", ["not_read"])
