"""The HTTP contract: answers of a real gunicorn to every kind of request."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from app.database.engine import open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.truto.signature import sign
from tests.support.waiting import measure_slowdown, wait_until
from tests.support.web_process import SECRET, WebProcess

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/inbox.db"
    store = open_database(url)
    migrate(store)
    store.close()
    return url


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, database_url: str, redis_url: str) -> Iterator[WebProcess]:
    folder = tmp_path_factory.mktemp("web")
    (folder / "routes.toml").write_text(
        '[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n\n[[routes]]\nsinks = ["main"]\n\n'
        '[[refuse]]\nintegrated_account_id = "sandbox-*"\nreason = "sandbox accounts are not synced"\n'
    )
    routes = str(folder / "routes.toml")
    with WebProcess(folder, database_url=database_url, redis_url=redis_url, ROUTES_FILE=routes) as process:
        yield process


@pytest.fixture(scope="module")
def strict_web(
    tmp_path_factory: pytest.TempPathFactory, database_url: str, redis_url: str
) -> Iterator[WebProcess]:
    """A web process whose secret is pinned, and that rejects old events."""
    settings = {"REPLAY_WINDOW_S": "300", "TRUTO_WEBHOOK_SECRET": f"w1={SECRET}"}
    folder = tmp_path_factory.mktemp("strict")
    with WebProcess(folder, database_url=database_url, redis_url=redis_url, **settings) as process:
        yield process


@pytest.fixture
def inbox(database_url: str) -> Iterator[Inbox]:
    store = open_database(database_url)
    yield Inbox(store)
    store.close()


def event(name: str = "sync_job_run:record", *, id_: str = "e1", **payload: object) -> bytes:
    envelope = {
        "id": id_,
        "event": name,
        "created_at": "2026-11-24T10:00:00.000Z",
        "webhook_id": "w1",
        "environment_id": "n1",
        "payload": payload,
    }
    return json.dumps(envelope).encode()


def test_a_signed_event_is_accepted_and_stored_byte_for_byte(web: WebProcess, inbox: Inbox) -> None:
    body = event(id_="plain", resource="crm/contacts", records=[{"id": "1"}])

    answer = web.post(body)

    assert (answer.http_status, answer.status) == (200, "accepted")
    assert inbox.read_body(UUID(answer.delivery)) == body


def test_the_same_body_again_is_a_duplicate(web: WebProcess) -> None:
    body = event(id_="twice")

    first, second = web.post(body), web.post(body)

    assert (first.status, second.status) == ("accepted", "duplicate")
    assert first.delivery == second.delivery


def test_the_same_id_with_another_body_is_another_delivery(web: WebProcess) -> None:
    answers = [web.post(event(id_="shared", records=[{"id": n}])) for n in range(2)]

    assert [answer.status for answer in answers] == ["accepted", "accepted"]


@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("with_format", [True, False])
@pytest.mark.parametrize("is_padded", [True, False])
def test_every_spelling_of_the_signature_is_accepted(
    web: WebProcess, encoding: str, *, with_format: bool, is_padded: bool
) -> None:
    body = event(id_=f"{encoding}-{with_format}-{is_padded}")

    header = sign(body, SECRET, encoding=encoding, with_format=with_format)  # type: ignore[arg-type]

    assert web.post(body, header if is_padded else header.rstrip("=")).status == "accepted"


@pytest.mark.parametrize("name", ["event_type", "eventType"])
def test_an_event_under_another_name_of_its_member_is_accepted(web: WebProcess, name: str) -> None:
    body = event(id_=name).replace(b'"event":', f'"{name}":'.encode())
    assert name.encode() in body

    assert web.post(body, sign(body, SECRET, encoding="base64")).status == "accepted"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "v=",
        "format=sha256",
        "format=md5,v=" + "0" * 64,
        "v=" + "0" * 64,
        "v=nonsense",
        "\xff\xfe",
        "," * 500,
    ],
)
def test_a_body_without_a_valid_signature_is_not_stored(web: WebProcess, inbox: Inbox, header: str) -> None:
    before = inbox.count_by_state()

    answer = web.post(event(id_="forged"), header)

    assert (answer.http_status, answer.status) == (401, "unauthorized")
    assert answer.delivery is None
    assert inbox.count_by_state() == before


def test_a_signature_of_another_body_is_refused(web: WebProcess) -> None:
    assert web.post(event(id_="a"), sign(event(id_="b"), SECRET)).http_status == 401


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty_body"),
        (b"not json", "not_json"),
        (b"[1, 2]", "not_object"),
        (b'"text"', "not_object"),
        (b"{}", "no_event"),
        (b'{"id": "x", "payload": {}}', "no_event"),
        (b'{"id": "x", "event": 7}', "no_event"),
        (b'{"id": "x", "event": ""}', "no_event"),
        # No index of the database could hold it, and its whole group commit would fail.
        (b'{"event": "x", "payload": {"sync_job_run_id": "%s"}}' % (b"x" * 9000), "name_too_long"),
        (b'{"event": "sync_job_run:record", "payload": {"records": [{}', "not_json"),
    ],
)
def test_an_unreadable_body_is_stored_as_quarantined(
    web: WebProcess, inbox: Inbox, body: bytes, reason: str
) -> None:
    answer = web.post(body)

    assert (answer.http_status, answer.status, answer.message) == (200, "quarantined", reason)
    assert inbox.read_body(UUID(answer.delivery)) == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"event": "sync_job_run:record", "payload": {"records": []}}',
        b'{"id": 17, "event": "sync_job_run:record", "payload": {"records": []}}',
        b'{"id": null, "event": "sync_job_run:record", "payload": null}',
        b'{"id": {"a": []}, "event": "sync_job_run:record", "payload": "text", "created_at": 5}',
        b'{"id": "odd", "event": "sync_job_run:record", "payload": [1], "webhook_id": [], "created_at": ""}',
        b'{"id": "nul\\u0000", "event": "sync_job_run:record", "payload": {"records": [{"id": "\\ud800"}]}}',
        b'{"id": "nan", "event": "sync_job_run:record", "payload": {"records": [{"n": NaN}, {"n": 1e400}]}}',
        b'{"id": "big", "event": "sync_job_run:record", "payload": {"records": [' + b"9" * 5000 + b"]}}",
        b'{"id": "deep", "event": "sync_job_run:record", "payload": {"records": ['
        + b"[" * 100_000
        + b"]" * 100_000
        + b"]}}",
        b'{"id": "' + b"i" * 3000 + b'", "event": "sync_job_run:record", "payload": {}}',
        b'{"eventType": "test", "payload": {"foo": "bar"}}',
        b'\xef\xbb\xbf{"id": "bom", "event": "test"}',
        b'{"id": "new", "event": "something:nobody:knows", "payload": {}, "more": true}',
    ],
    ids=lambda body: body[:24].decode(errors="replace"),
)
def test_odd_but_readable_events_are_accepted(web: WebProcess, inbox: Inbox, body: bytes) -> None:
    answer = web.post(body)

    assert (answer.http_status, answer.status) == (200, "accepted")
    assert inbox.read_body(UUID(answer.delivery)) == body


def test_a_refused_run_is_stopped_and_kept(web: WebProcess, inbox: Inbox) -> None:
    body = event("sync_job_run:started", id_="r", integrated_account_id="sandbox-7")

    first, again = web.post(body), web.post(body)

    assert (first.http_status, first.status) == (400, "refused")
    assert first.message == "sandbox accounts are not synced"
    # Truto retries: the answer must not change.
    assert (again.http_status, again.status) == (400, "refused")
    assert inbox.read_body(UUID(first.delivery)) == body


def test_only_started_is_ever_refused(web: WebProcess) -> None:
    names = ["created", "record", "updated", "completed", "stopped"]

    answers = [web.post(event(f"sync_job_run:{name}", integrated_account_id="sandbox-7")) for name in names]

    assert {answer.http_status for answer in answers} == {200}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_31_mib_is_accepted(web: WebProcess, inbox: Inbox, *, chunked: bool) -> None:
    body = event(id_=f"large-{chunked}", records=["x" * (31 * MIB)])

    answer = web.post(body, chunked=chunked)

    assert answer.status == "accepted"
    assert inbox.read_body(UUID(answer.delivery)) == body


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_33_mib_is_too_large(web: WebProcess, *, chunked: bool) -> None:
    answer = web.post(event(records=["x" * (33 * MIB)]), chunked=chunked)

    assert (answer.http_status, answer.status) == (413, "too_large")


def test_a_chunked_body_is_accepted(web: WebProcess) -> None:
    assert web.post(event(id_="chunked"), chunked=True).status == "accepted"


def send_raw(web: WebProcess, sent: bytes, *, then_close: bool = False) -> bytes:
    """Send raw bytes; return all that is received until the other side closes."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=40) as connection:
        connection.sendall(sent)
        if then_close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


def head(body: bytes, *lines: str) -> bytes:
    signature = f"X-Truto-Signature: {sign(body, SECRET)}"
    text = "\r\n".join(["POST /webhooks/truto HTTP/1.1", "Host: localhost", signature, *lines, "", ""])
    return text.encode()


def test_an_announced_length_over_the_limit_is_refused_before_the_body(web: WebProcess) -> None:
    answer = send_raw(web, head(b"", f"Content-Length: {10**12}"), then_close=True)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"too_large"' in answer


def test_a_request_without_a_signature_is_refused_before_the_body(web: WebProcess) -> None:
    request = b"POST /webhooks/truto HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"

    assert send_raw(web, request, then_close=True).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 100\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}",
    ],
)
def test_an_incomplete_body_is_never_stored(web: WebProcess, inbox: Inbox, framing: bytes) -> None:
    before = inbox.count_by_state()

    answer = send_raw(web, head(b"{}").removesuffix(b"\r\n") + framing, then_close=True)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert inbox.count_by_state() == before


def test_a_content_length_that_is_too_short_does_not_verify(web: WebProcess) -> None:
    body = event(id_="short")

    answer = send_raw(web, head(body, f"Content-Length: {len(body) - 5}", "Connection: close") + body)

    assert answer.startswith(b"HTTP/1.1 401 ")


def test_pipelined_requests_are_answered_one_by_one(web: WebProcess, inbox: Inbox) -> None:
    bodies = [event(id_=f"piece-{number}", filler="x" * size) for number, size in enumerate((10, 99_000, 10))]
    lines = [(), (), ("Connection: close",)]

    answers = send_raw(
        web,
        b"".join(
            head(body, f"Content-Length: {len(body)}", *more) + body
            for body, more in zip(bodies, lines, strict=True)
        ),
    )

    assert answers.count(b"HTTP/1.1 200 ") == 3
    ids = [UUID(part.split(b'"')[0].decode()) for part in answers.split(b'"delivery": "')[1:]]
    assert [inbox.read_body(id_) for id_ in ids] == bodies


@pytest.mark.parametrize("length", ["-1", "abc", "1, 2"])
def test_a_content_length_that_is_no_number_is_not_accepted(web: WebProcess, length: str) -> None:
    answer = send_raw(web, head(b"{}", f"Content-Length: {length}") + b"{}", then_close=True)

    assert answer.startswith(b"HTTP/1.1 4")
    assert b"Traceback" not in answer


def test_stalled_and_slow_senders_delay_no_other_and_are_answered_408(web: WebProcess) -> None:
    def send_slowly(number: int) -> bytes:
        with socket.create_connection(("127.0.0.1", web.port), timeout=0.5) as connection:
            connection.sendall(head(b"{}", "Content-Length: 1000"))
            for _ in range(100):
                try:
                    return connection.recv(65536)
                except TimeoutError:
                    # Odd ones send a byte now and then, so that no single read times out.
                    connection.sendall(b"x" * (number % 2))
        return b""

    with ThreadPoolExecutor(20) as senders:
        slow = [senders.submit(send_slowly, number) for number in range(20)]
        answers = [web.post(event(id_=f"between-{number}")) for number in range(20)]
        assert not any(future.done() for future in slow)
        slow_answers = [future.result() for future in slow]

    assert {answer.status for answer in answers} == {"accepted"}
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in slow_answers)


@pytest.mark.parametrize(
    ("method", "path", "http_status"),
    [
        ("GET", "/webhooks/truto", 405),
        ("PUT", "/webhooks/truto", 405),
        ("DELETE", "/webhooks/truto", 405),
        ("OPTIONS", "/webhooks/truto", 405),
        ("GET", "/webhooks/truto/", 405),
        ("POST", "/", 405),
        ("GET", "/webhooks", 404),
    ],
)
def test_other_methods_and_paths_name_the_webhook(
    web: WebProcess, method: str, path: str, http_status: int
) -> None:
    answer = web.request(method, path)

    assert answer.http_status == http_status
    assert "POST /webhooks/truto" in answer.message


def test_a_head_request_is_answered_without_a_body_and_without_a_warning(web: WebProcess) -> None:
    response = httpx.head(f"{web.url}/webhooks/truto")

    assert (response.status_code, response.content) == (405, b"")
    assert web.request("GET", "/webhooks/truto").http_status == 405
    assert "body bytes" not in web.log


def test_a_slash_at_the_end_of_the_target_url_drops_no_page(web: WebProcess) -> None:
    body = event(id_="slash")

    response = httpx.post(
        f"{web.url}/webhooks/truto/", content=body, headers={"X-Truto-Signature": sign(body, SECRET)}
    )

    assert (response.status_code, response.json()["status"]) == (200, "accepted")


def test_health_and_readiness(web: WebProcess) -> None:
    assert httpx.get(f"{web.url}/healthz").json() == {"status": "ok"}
    ready = httpx.get(f"{web.url}/readyz")
    assert ready.status_code == 503
    answer = ready.json()
    # The other tests of this module send wrong signatures, among others.
    assert "failed_deliveries" in answer.pop("warnings")
    assert answer == {
        "status": "unready",
        "store": "ok",
        "redis": "ok",
        "workers": "no worker is running; start: rapidbridge worker",
        "backlog": "ok",
        "spool": "ok",
    }


def test_a_keep_alive_connection_serves_many_deliveries(web: WebProcess) -> None:
    with httpx.Client(base_url=web.url) as client:
        for number in range(50):
            body = event(id_=f"kept-{number}")
            headers = {"X-Truto-Signature": sign(body, SECRET)}
            assert client.post("/webhooks/truto", content=body, headers=headers).status_code == 200


def read_to_end(connection: socket.socket) -> bytes:
    answer = b""
    while part := connection.recv(65536):
        answer += part
    return answer


def test_sigterm_answers_open_requests_and_waits_for_no_idle_connection(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    body = event(id_="last")
    request = head(body, f"Content-Length: {len(body)}") + body
    with ExitStack() as stack:
        web = stack.enter_context(WebProcess(tmp_path, database_url=database_url, redis_url=redis_url))
        address = ("127.0.0.1", web.port)
        idle, _silent, busy, new, partial, chunked = (
            stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(6)
        )
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"}" not in received:
            received += idle.recv(65536)
        busy.sendall(request[:-10])
        partial.sendall(request[:30])
        chunked.sendall(head(body, "Transfer-Encoding: chunked") + b"%x\r\n%b" % (len(body), body))
        wait_until(lambda: web.connection_count == 6, what="six connections")
        wait_until(lambda: web.unread_connection_count == 0, what="the first bytes to be read")

        started = time.monotonic()
        web.terminate()
        wait_until(lambda: idle.recv(1) == b"", what="the idle connection to end")
        new.sendall(request)
        partial.sendall(request[30:])
        busy.sendall(request[-10:])
        chunked.sendall(b"\r\n0\r\n\r\n")
        answers = [read_to_end(connection) for connection in (new, partial, busy, chunked)]
        web.wait()
        took_s = time.monotonic() - started

    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers), answers
    assert all(b"Connection: close" in answer for answer in answers), answers
    assert sorted(answer.count(b"accepted") for answer in answers) == [0, 0, 0, 1]
    assert took_s < 10 * measure_slowdown()


def test_no_part_of_a_request_appears_in_the_log(web: WebProcess) -> None:
    marker = "eve@example.com"
    web.post(event(id_="logged", records=[{"id": "1", "email": marker}]))
    web.post(b'{"email": "' + marker.encode())
    web.post(event(records=[marker]), "v=" + marker)

    assert "delivery.accepted" in web.log
    assert marker not in web.log
    assert SECRET not in web.log
    assert "Traceback" not in web.log


def test_a_name_cannot_forge_a_line_of_the_log(web: WebProcess) -> None:
    web.post(event(id_="forge", resource="x\nlevel=error event=forged\r\x1b[2J", records=[]))

    [line] = [line for line in web.log.splitlines() if "event=forged" in line]
    assert "event=delivery.accepted" in line
    assert "\x1b" not in line


def test_replays_and_other_webhooks_are_refused_by_settings(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    settings = {"REPLAY_WINDOW_S": "300", "TRUTO_WEBHOOK_SECRET": f"w1={SECRET},other"}
    now, then = datetime.now(UTC), datetime.now(UTC) - timedelta(hours=1)

    def made(at: datetime, webhook: str, id_: str) -> bytes:
        return json.dumps(
            {"id": id_, "event": "test", "created_at": at.isoformat(), "webhook_id": webhook}
        ).encode()

    with WebProcess(tmp_path, database_url=database_url, redis_url=redis_url, **settings) as web:
        fresh, old, foreign = made(now, "w1", "1"), made(then, "w1", "2"), made(now, "w2", "3")
        statuses = [web.post(body).http_status for body in (fresh, old, foreign)]
        unpinned = web.post(foreign, sign(foreign, "other"))

    assert statuses == [200, 401, 401]
    assert unpinned.status == "accepted"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"event": "test"}', "accepted"),
        (b'{"event": "test", "webhook_id": null, "created_at": null}', "accepted"),
        (b'{"event": "test", "webhook_id": {"id": "w1"}, "created_at": "soon"}', "accepted"),
        (b'{"event": "test", "webhook_id": "w1", "payload": {"records": [NaN]}}', "accepted"),
        (
            b'{"event": "test", "webhook_id": "w1", "payload": {"resource": "%s"}}' % (b"x" * 201),
            "quarantined",
        ),
        (b'{"event": "test", "webhook_id": "w1"', "quarantined"),
        (b'{"webhook_id": "w1"}', "quarantined"),
        (b"not json", "quarantined"),
        (b"[1]", "quarantined"),
        (b"", "quarantined"),
    ],
    ids=lambda value: value[:50].decode() if isinstance(value, bytes) else value,
)
def test_a_signed_body_that_names_no_other_webhook_and_no_other_time_is_kept(
    strict_web: WebProcess, inbox: Inbox, body: bytes, status: str
) -> None:
    answer = strict_web.post(body)

    assert (answer.http_status, answer.status) in [(200, status), (200, "duplicate")]
    assert inbox.read_body(UUID(answer.delivery)) == body
