"""Requests to other servers: bounded in time and memory, whatever the server sends."""

import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import httpx
import pytest

from app.checks.receiver import check_receiver
from app.cli.common.reachability import require_reachable
from app.cli.local.ports import find_free_port
from app.config.settings import WebhookSecret, read_settings
from app.errors import TrutoRefused, TrutoUnavailable
from app.http_client import PrivateAddress, ResponseTooLarge, open_http_client, send
from app.truto import client as truto_client
from app.truto.client import TrutoClient
from app.truto.webhook_sender import WebhookSender, WebhookTarget, open_sender_client
from tests.support import hostile_server
from tests.support.hostile_server import serving
from tests.support.waiting import measure_slowdown

Respond = Callable[[socket.socket], None]
DRIPS = (hostile_server.drip_headers, hostile_server.drip_body, hostile_server.drip_nothing)
FLOODS = (hostile_server.endless_headers, hostile_server.endless_chunks, hostile_server.large_body)
TIMEOUT_S = 1.0


def request(url: str, *, max_bytes: int | None = 100_000, **options: object) -> httpx.Response:
    with open_http_client(allow_private=True, trust_env=False) as client:
        return send(client, "POST", url, timeout_s=TIMEOUT_S, max_bytes=max_bytes, **options)


@pytest.mark.parametrize("respond", DRIPS)
def test_a_response_that_drips_ends_at_the_deadline(respond: Respond) -> None:
    started = time.monotonic()

    with serving(respond) as url, pytest.raises(httpx.ReadTimeout):
        request(url)

    assert TIMEOUT_S <= time.monotonic() - started < 3 * TIMEOUT_S * measure_slowdown()


def test_a_server_that_reads_slowly_ends_at_the_deadline() -> None:
    started = time.monotonic()

    with serving(hostile_server.read_slowly) as url, pytest.raises(httpx.TimeoutException):
        request(url, content=b"x" * 50_000_000)

    assert time.monotonic() - started < 5 * TIMEOUT_S * measure_slowdown()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every host name have these addresses, as no name server here does."""
    resolve = socket.getaddrinfo

    def resolve_all(host: str, *arguments: Any, **options: Any) -> list[Any]:
        hosts = addresses if host.removesuffix(".").endswith(".invalid") else (host,)
        return [found for known in hosts for found in resolve(known, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve_all)


@contextmanager
def unreachable(host: str, port: int) -> Iterator[None]:
    """Listen at an address whose connections are never established."""
    with socket.socket() as listener, ExitStack() as clients:
        listener.bind((host, port))
        listener.listen(0)
        # They fill the queue of the listener.
        for _ in range(4):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((host, port))
        yield


def test_all_addresses_of_a_host_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [f"127.0.0.{number}" for number in range(2, 7)]
    resolve_to(monkeypatch, *addresses)
    port = find_free_port()
    with ExitStack() as listeners:
        for address in addresses:
            listeners.enter_context(unreachable(address, port))
        started = time.monotonic()

        with pytest.raises(httpx.ConnectTimeout):
            request(f"http://many.invalid:{port}")

        assert time.monotonic() - started < 3 * TIMEOUT_S * measure_slowdown()


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")

    with serving(hostile_server.redirect) as url:
        port = int(url.rpartition(":")[2])
        with unreachable("127.0.0.2", port):
            assert request(f"http://two.invalid:{port}").status_code == 302


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "127.0.0.1", "127.1", "0.0.0.0", "2130706433", "0x7f.1", "0x7f000001"),
        *("017700000001", "0177.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "a.invalid", "a.invalid."),
    ],
)
def test_no_spelling_of_a_private_address_passes(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    connections: list[socket.socket] = []
    resolve_to(monkeypatch, "127.0.0.1")

    with (
        serving(connections.append) as url,
        open_http_client(allow_private=False) as client,
        pytest.raises(PrivateAddress, match="no public address; set allow_private = true"),
    ):
        send(client, "GET", f"http://{host}:{url.rpartition(':')[2]}/", timeout_s=TIMEOUT_S, max_bytes=None)

    assert connections == []


METADATA_HOSTS = [
    *("169.254.169.254", "0xa9fea9fe", "025177524776", "2852039166", "[::ffff:169.254.169.254]"),
    *("[64:ff9b::a9fe:a9fe]", "[fe80::a9fe:a9fe]", "[fd00:ec2::254]", "168.63.129.16", "100.100.100.200"),
]


@pytest.mark.parametrize("host", METADATA_HOSTS)
@pytest.mark.parametrize("allow_private", [True, False])
def test_a_metadata_service_is_never_connected_to(
    monkeypatch: pytest.MonkeyPatch, host: str, *, allow_private: bool
) -> None:
    connected = []
    monkeypatch.setattr(socket, "create_connection", lambda *arguments, **_: connected.append(arguments))

    with (
        open_http_client(allow_private=allow_private, trust_env=False) as client,
        pytest.raises(PrivateAddress, match="always refused"),
    ):
        send(client, "GET", f"http://{host}/latest", timeout_s=TIMEOUT_S, max_bytes=None)

    assert connected == []


def test_a_name_is_connected_to_at_its_public_addresses_only(monkeypatch: pytest.MonkeyPatch) -> None:
    connected = []

    def connect(address: Any, *_: Any, **__: Any) -> None:
        connected.append(address[0])
        raise OSError

    resolve_to(monkeypatch, "127.0.0.1", "93.184.216.34", "10.0.0.1", "169.254.169.254")
    monkeypatch.setattr(socket, "create_connection", connect)

    for allow_private in (False, True):
        with (
            open_http_client(allow_private=allow_private, trust_env=False) as client,
            pytest.raises(httpx.ConnectError),
        ):
            send(client, "GET", "http://mixed.invalid/", timeout_s=TIMEOUT_S, max_bytes=None)

    assert connected == ["93.184.216.34", "127.0.0.1", "93.184.216.34", "10.0.0.1"]


def test_truto_at_the_address_of_a_metadata_service_gets_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "169.254.169.254")

    with (
        TrutoClient("http://truto.invalid", "token", sleep=lambda _: None) as client,
        pytest.raises(TrutoUnavailable, match="always refused; use another URL in TRUTO_API_URL"),
    ):
        client.get_run("x")


@pytest.mark.parametrize("respond", [*FLOODS, hostile_server.gzip_bomb])
def test_a_large_response_takes_little_memory(respond: Respond) -> None:
    tracemalloc.start()
    try:
        with serving(respond) as url, pytest.raises((ResponseTooLarge, httpx.RemoteProtocolError)):
            request(url)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 10_000_000


@pytest.mark.parametrize("respond", [hostile_server.endless_chunks, hostile_server.gzip_bomb])
def test_a_body_that_is_not_needed_is_not_read(respond: Respond) -> None:
    with serving(respond) as url:
        assert request(url, max_bytes=None).status_code == 200


def test_a_connection_is_used_again_with_a_new_deadline() -> None:
    connections = []

    def respond(connection: socket.socket) -> None:
        connections.append(connection)
        for _ in range(2):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            connection.recv(65536)

    with serving(respond) as url, open_http_client(allow_private=True, trust_env=False) as client:
        first = send(client, "GET", url, timeout_s=0.5, max_bytes=10)
        # Later than the deadline of the first request.
        threading.Event().wait(0.6)
        second = send(client, "GET", url, timeout_s=20, max_bytes=10)

    assert (first.content, second.content, len(connections)) == (b"ok", b"ok", 1)


@pytest.mark.parametrize("respond", [*DRIPS, *FLOODS, hostile_server.gzip_bomb, hostile_server.deep_json])
def test_truto_cannot_keep_a_client(respond: Respond) -> None:
    started = time.monotonic()

    with (
        serving(respond) as url,
        TrutoClient(url, "token", sleep=lambda _: None, timeout_s=TIMEOUT_S) as client,
        pytest.raises((TrutoUnavailable, TrutoRefused)) as caught,
    ):
        client.get_run("x")

    # Four attempts.
    assert time.monotonic() - started < 8 * TIMEOUT_S * measure_slowdown()
    assert "127.0.0.1" in str(caught.value)


def test_the_token_follows_no_redirect() -> None:
    with (
        serving(hostile_server.redirect) as url,
        TrutoClient(url, "token", sleep=lambda _: None) as client,
        pytest.raises(TrutoRefused, match="answered 302"),
    ):
        client.get_run("x")


def test_a_list_without_an_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truto_client, "_MAX_PAGES", 20)
    numbers = count()

    def respond(connection: socket.socket) -> None:
        while True:
            body = b'{"results": [{"id": "1"}], "next_cursor": "%d"}' % next(numbers)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            if not connection.recv(65536):
                return

    with (
        serving(respond) as url,
        TrutoClient(url, "token") as client,
        pytest.raises(TrutoUnavailable, match="stopped after 20"),
    ):
        list(client.list_runs({}))


@pytest.mark.parametrize("respond", [hostile_server.drip_body, hostile_server.large_body])
def test_doctor_and_the_commands_end(respond: Respond, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.checks.receiver._TIMEOUT_S", TIMEOUT_S)
    started = time.monotonic()

    with serving(respond) as url:
        results = list(check_receiver(read_settings({}), url, WebhookSecret("s" * 36), is_expected=True))
        require_reachable(url)

    assert [result.level for result in results] == ["fail"]
    assert time.monotonic() - started < 8 * TIMEOUT_S * measure_slowdown()


def test_a_sender_gives_up_a_receiver_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.truto.webhook_sender._TIMEOUT_S", TIMEOUT_S)
    with serving(hostile_server.drip_body) as url, open_sender_client(1) as client:
        sender = WebhookSender(WebhookTarget(url, "s" * 36, first_backoff_s=0.0), client, threading.Event())

        outcome = sender.send(b"{}")

    assert (outcome.http_status, outcome.retries, sender.response_counts) == (0, 3, {"failed": 4})


def test_a_sender_believes_the_status_of_a_long_response() -> None:
    with serving(hostile_server.large_body) as url, open_sender_client(1) as client:
        sender = WebhookSender(WebhookTarget(url, "s" * 36), client, threading.Event())

        assert sender.send(b"{}").is_delivered


def test_requests_through_a_proxy_have_the_same_limits() -> None:
    # In a process of its own: httpx reads the proxy from the environment.
    script = (
        "import sys, httpx; from app.http_client import open_http_client, send\n"
        "try: send(open_http_client(allow_private=True), 'GET', 'http://truto.invalid/', timeout_s=1, max_bytes=10)\n"
        "except httpx.ReadTimeout: print('timeout')"
    )
    with serving(hostile_server.drip_body) as url:
        ran = subprocess.run(
            [sys.executable, "-c", script],
            env={"http_proxy": url, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert ran.stdout.strip() == "timeout", ran.stderr
