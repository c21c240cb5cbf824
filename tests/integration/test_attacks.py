"""Unsigned clients on all connections: signed deliveries are answered, and no client keeps a place."""

import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from app.config.operating_system import list_wildcard_addresses
from app.database.engine import open_database
from app.store.migrate import migrate
from app.truto.signature import sign
from app.web.connection import HEAD_TIMEOUT_S
from tests.support.attacker import ATTACKS, Attackers, head
from tests.support.dashboard import SETTINGS as DASHBOARD
from tests.support.waiting import measure_slowdown, wait_until
from tests.support.web_process import SECRET, WebProcess

MIB = 1024 * 1024
# Without an attack, a few ms. Heroku's router gives up after 30 s.
MAX_RESPONSE_S = 5.0
# One line a second of each kind.
MAX_WARNINGS = 100


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/inbox.db"
    store = open_database(url)
    migrate(store)
    store.close()
    return url


@pytest.fixture
def web(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[WebProcess]:
    with WebProcess(tmp_path, database_url=database_url, redis_url=redis_url, **DASHBOARD) as process:
        yield process


def event(filler: str = "") -> bytes:
    payload = {
        "integrated_account_id": "a",
        "resource": "crm/contacts",
        "method": "list",
        "records": [filler],
    }
    return json.dumps({"id": str(uuid4()), "event": "sync_job_run:record", "payload": payload}).encode()


def post_on_new_connection(web: WebProcess, body: bytes) -> int:
    headers = {"X-Truto-Signature": sign(body, SECRET)}
    return httpx.post(f"{web.url}/webhooks/truto", content=body, headers=headers, timeout=30).status_code


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def send_chunks(web: WebProcess, signature: str, *chunks: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", web.port), timeout=30)
    lines = [f"X-Truto-Signature: {signature}", "Transfer-Encoding: chunked"]
    connection.sendall(head(*lines) + b"".join(map(chunk, chunks)))
    return connection


def receive_to_end(connection: socket.socket) -> bytes:
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_all_connections_delays_no_signed_delivery_for_long(
    web: WebProcess, attack: str
) -> None:
    web.post(event())
    times_s = []
    with Attackers(attack, web.port):
        wait_until(lambda: web.connection_count > 40, what="the attack")
        for _ in range(20):
            started = time.monotonic()
            assert web.post(event()).http_status == 200
            times_s.append(time.monotonic() - started)
        for _ in range(3):
            started = time.monotonic()
            assert post_on_new_connection(web, event()) == 200
            times_s.append(time.monotonic() - started)
    limit_s = MAX_RESPONSE_S * measure_slowdown()

    assert max(times_s) < limit_s
    wait_until(lambda: web.connection_count <= 0, what="free places")
    assert "Traceback" not in web.log
    assert "secret-of-a-customer" not in web.log
    assert web.log.count("level=warning") + web.log.count("WARNING") < MAX_WARNINGS


def test_stalled_large_bodies_take_no_memory_from_senders_of_verified_ones(web: WebProcess) -> None:
    web.post(event())
    with Attackers("stall_large_bodies", web.port, connections=180):
        wait_until(lambda: web.connection_count > 150, what="the attack")

        assert [web.post(event("x" * 8 * MIB)).http_status for _ in range(3)] == [200] * 3


def test_a_head_that_drips_is_ended(web: WebProcess) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=1) as connection:
        connection.sendall(head()[:20])
        started = time.monotonic()

        def is_ended() -> bool:
            try:
                connection.sendall(b"x")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        wait_until(is_ended, timeout_s=HEAD_TIMEOUT_S * 2, what="the end of the connection")

    assert time.monotonic() - started > HEAD_TIMEOUT_S / 2


def test_a_body_in_chunks_of_any_usual_size_is_accepted(web: WebProcess) -> None:
    body = event("x" * 1_000_000)
    signature = sign(body, SECRET)
    # The first ones may be tiny; later ones are large enough on average.
    parts = [body[at : at + 1] for at in range(50)]
    parts += [body[at : at + 300] for at in range(50, len(body), 300)]

    with send_chunks(web, signature, *parts, b"") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_chunk_may_arrive_in_several_parts(web: WebProcess) -> None:
    body = event("x" * 60_000)
    parts = [body[at : at + 300] for at in range(0, len(body), 300)]

    with send_chunks(web, sign(body, SECRET)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            for piece in (b"%x\r\n" % len(part), part, b"\r\n"):
                connection.sendall(piece)
                # Otherwise several pieces arrive in one read.
                time.sleep(0.001)
        connection.sendall(chunk(b""))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_body_in_tiny_chunks_is_refused_and_not_read_on(web: WebProcess) -> None:
    body = event("x" * 5000)

    with send_chunks(web, sign(body, SECRET), *[body[at : at + 1] for at in range(2000)]) as connection:
        answer = receive_to_end(connection)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in answer


def test_a_refused_chunked_body_ends_its_connection(web: WebProcess) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
        connection.sendall(head("Transfer-Encoding: chunked") + chunk(b"x"))
        answer = receive_to_end(connection)

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/9.9 leaked\r\n\r\n", b"leaked /x HTTP/1.1\r\n\r\n", b"GET leaked\r\n\r\n"]
)
def test_an_invalid_request_leaves_none_of_its_bytes_in_the_log(web: WebProcess, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
        connection.sendall(sent)
        assert receive_to_end(connection).startswith(b"HTTP/1.1 400 ")

    wait_until(lambda: "request.invalid" in web.log, what="the log entry")
    assert "leaked" not in web.log


def test_idle_connections_that_are_closed_leave_no_traceback(web: WebProcess) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=60))
        wait_until(lambda: "connections.closed" in web.log, what="the first closed connection")
        assert post_on_new_connection(web, event()) == 200

    assert "Traceback" not in web.log


def test_a_low_limit_of_open_files_is_raised(tmp_path: Path, database_url: str, redis_url: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    prefix = ["prlimit", f"--nofile=256:{hard}"]
    with WebProcess(tmp_path, database_url=database_url, redis_url=redis_url, prefix=prefix) as web:
        limits = Path(f"/proc/{web.pid}/limits").read_text()

    [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert int(line.split()[3]) > 256


def test_idle_connections_cannot_take_the_last_open_files(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    prefix = ["prlimit", "--nofile=256:256"]
    with (
        ExitStack() as stack,
        WebProcess(tmp_path, database_url=database_url, redis_url=redis_url, prefix=prefix) as web,
    ):
        for _ in range(280):
            stack.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=60))
        started = time.monotonic()
        assert post_on_new_connection(web, event()) == 200
        took_s = time.monotonic() - started

        assert "Too many open files" not in web.log
    assert took_s < 2 * MAX_RESPONSE_S * measure_slowdown()


@pytest.mark.skipif("::" not in list_wildcard_addresses(), reason="this machine has no IPv6")
def test_both_address_families_are_served_on_one_port(web: WebProcess) -> None:
    for host in ("127.0.0.1", "[::1]"):
        assert httpx.get(f"http://{host}:{web.port}/healthz", timeout=30).status_code == 200
