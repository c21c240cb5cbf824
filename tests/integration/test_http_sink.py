"""The http sink against a real endpoint, which verifies each request and fails in every way."""

import contextlib
import json
import re
import socket
import ssl
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app.cli.local.ports import find_free_port
from app.config.routes import Route
from app.errors import SinkRefused, SinkUnavailable
from app.sinks.base import WriteResult
from app.sinks.http import HttpSink
from app.truto.records import decode_json
from tests.support import hostile_server
from tests.support.documentation import read_marked_block
from tests.support.hostile_server import serving
from tests.support.record_endpoint import (
    Answer,
    RecordEndpoint,
    answer_json,
    hang,
    record_endpoint,
    reset,
)
from tests.support.sent_records import SentRecords, send, write
from tests.support.waiting import measure_slowdown

ROUTE = Route(sinks=("main",))
TWO = send([{"id": "1"}, {"id": "2"}])


@pytest.fixture(scope="module")
def server() -> Iterator[RecordEndpoint]:
    with record_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(server: RecordEndpoint) -> RecordEndpoint:
    server.clear()
    return server


@contextlib.contextmanager
def opened(endpoint: RecordEndpoint, **changes: Any) -> Iterator[HttpSink]:
    with contextlib.closing(HttpSink(endpoint.configure(**changes))) as sink:
        yield sink


def deliver(endpoint: RecordEndpoint, sent: SentRecords = TWO, **changes: Any) -> WriteResult:
    """Write by a sink of its own if it has other settings."""
    with opened(endpoint, **changes) if changes else contextlib.nullcontext(endpoint.sink) as sink:
        return sink.write(sent.build_batch(ROUTE), ROUTE)


def ordinals(endpoint: RecordEndpoint) -> list[list[int]]:
    """The records of each request."""
    return [[record["ordinal"] for record in request.body["records"]] for request in endpoint.requests]


def test_a_request_has_the_documented_form(endpoint: RecordEndpoint) -> None:
    sent = send([{"id": "ä", "n": [1.5, None]}], at_s=1, is_deletion=True)

    deliver(endpoint, sent, headers={"Authorization": "Bearer t", "X-Tenant": "7"})

    [request] = endpoint.requests
    assert request.body == {
        "type": "records",
        "delivery": str(UUID(int=1)),
        "received_at": "2026-11-24T12:00:00.000001+00:00",
        "resource": "crm/contacts",
        "method": "list",
        "account": "a1",
        "job": "j1",
        "run": "r1",
        "records": [
            {
                "ordinal": 0,
                "key": "ä",
                "version": "2026-11-24T12:00:01.000000+00:00",
                "sequence": f"1795521600000001-{UUID(int=1).hex}-00000000",
                "deleted": True,
                "data": {"id": "ä", "n": [1.5, None]},
            }
        ],
    }
    assert (request.headers["authorization"], request.headers["x-tenant"]) == ("Bearer t", "7")
    assert request.headers["user-agent"] == "rapidbridge-receiver"


def test_the_documented_request_is_the_one_that_is_sent(endpoint: RecordEndpoint) -> None:
    documented = json.loads(read_marked_block("docs/sinks.md", "http request"), parse_float=Decimal)
    [record] = documented["records"]
    sent = send(
        [decode_json('{"id": "17", "amount": 12.50}')],
        delivery_id=UUID(documented["delivery"]),
        received_at=datetime.fromisoformat(documented["received_at"]),
        version=datetime.fromisoformat(record["version"]),
        **{name: documented[name] for name in ("resource", "method", "account", "job", "run")},
    )

    deliver(endpoint, sent)

    assert endpoint.requests[0].body == documented
    assert b'"amount":12.50' in endpoint.requests[0].raw


def test_a_repeated_request_has_its_id_again_and_others_have_their_own(endpoint: RecordEndpoint) -> None:
    many = send([{"id": str(number)} for number in range(4)])
    endpoint.answers = [Answer(503), reset]

    for _ in range(2):
        with pytest.raises(SinkUnavailable):
            deliver(endpoint, many, max_records=2)
    deliver(endpoint, many, max_records=2)
    deliver(endpoint, send(many.values, number=2), max_records=2)
    deliver(endpoint, send(many.values, account="a2"), max_records=2)

    first, second, third, last, *others = [request.id for request in endpoint.requests]
    assert first == second == third
    assert len({third, last, *others}) == 6
    assert ordinals(endpoint)[2:4] == [[0, 1], [2, 3]]


def test_a_batch_that_fails_half_way_is_complete_after_the_retry(endpoint: RecordEndpoint) -> None:
    many = send([{"id": str(number)} for number in range(6)])
    failures = [Answer(500)]
    endpoint.decide = lambda body: failures.pop() if failures and body["records"][0]["ordinal"] == 2 else None

    with pytest.raises(SinkUnavailable):
        deliver(endpoint, many, max_records=2)
    assert len(endpoint.stored) == 2

    assert deliver(endpoint, many, max_records=2).written == 6
    assert sorted(key for _, _, key in endpoint.stored) == [str(number) for number in range(6)]
    assert ordinals(endpoint) == [[0, 1], [2, 3], [0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_records": 3}, [[0, 1, 2], [3, 4, 5], [6]]),
        ({"max_bytes": 2000}, [[0, 1], [2], [3], [4, 5], [6]]),
        ({}, [[0, 1, 2, 3, 4, 5, 6]]),
    ],
)
def test_requests_are_bounded(endpoint: RecordEndpoint, limits: Any, expected: list[list[int]]) -> None:
    texts = ["x" * size for size in (500, 500, 1500, 9000, 500, 500, 1200)]

    result = deliver(endpoint, send([{"id": text[:9], "text": text} for text in texts]), **limits)

    assert (result.written, ordinals(endpoint)) == (7, expected)


def test_an_empty_batch_is_not_sent(endpoint: RecordEndpoint) -> None:
    assert deliver(endpoint, send([])).written == 0
    assert endpoint.requests == []


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_status_of_success_is_enough(endpoint: RecordEndpoint, status: int) -> None:
    endpoint.answers = [Answer(status, {"Content-Type": "text/html"}, b"" if status == 204 else b"<ok>")]

    assert deliver(endpoint).written == 2


@pytest.mark.parametrize(
    ("status", "next_step"),
    [
        *[(status, "set `url` to the target") for status in (301, 302, 303, 307, 308)],
        *[(status, "correct `secret` or `headers`") for status in (401, 403)],
        (404, "correct `url` of the sink"),
        (405, "must accept POST"),
        (410, "correct `url`, or remove the sink"),
        *[(status, "find the cause in the log of the endpoint") for status in (400, 402, 415, 418, 431, 499)],
    ],
)
def test_a_status_that_a_person_has_to_correct_is_refused(
    endpoint: RecordEndpoint, status: int, next_step: str
) -> None:
    endpoint.answers = [Answer(status, {"Location": endpoint.url}, b"hidden record")]

    with pytest.raises(SinkRefused, match=next_step) as refusal:
        deliver(endpoint)

    assert refusal.value.reason == "sink_set_up"
    assert f"answered {status}" in str(refusal.value)
    # No redirect was followed.
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", [408, 409, 421, 423, 425, 429, 500, 502, 503, 504, 599])
def test_a_status_that_passes_is_retried(endpoint: RecordEndpoint, status: int) -> None:
    endpoint.answers = [Answer(status, {"Retry-After": "7"})]

    with pytest.raises(SinkUnavailable, match=f"answered {status}") as failure:
        deliver(endpoint)

    assert not isinstance(failure.value, SinkRefused)
    assert failure.value.retry_after_s == 7
    assert not failure.value.is_batch_timeout
    assert deliver(endpoint).written == 2


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("retry_after", "wait_s"),
    [
        ("0", 0),
        ("90", 90),
        ("999999999999", 1800),
        ("{in 600 s}", 600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1800),
        ("Fri, 27 Nov 2020 12:00:00 GMT", None),
        ("-5", None),
        ("soon", None),
        ("1.5", None),
    ],
)
def test_a_requested_wait_is_read_and_bounded(
    endpoint: RecordEndpoint, retry_after: str, wait_s: float | None
) -> None:
    # At the time of the test: a suite lasts longer than that.
    named = retry_after.replace("{in 600 s}", in_seconds(600))
    endpoint.answers = [Answer(429, {"Retry-After": named})]

    with pytest.raises(SinkUnavailable) as failure:
        deliver(endpoint)

    assert failure.value.retry_after_s == (wait_s and pytest.approx(wait_s, abs=200))
    assert (failure.value.retry_after_s or 0) <= 1800


@pytest.mark.parametrize("status", [413, 422])
def test_a_rejected_request_is_halved_until_the_rejected_records_stand_alone(
    endpoint: RecordEndpoint, status: int
) -> None:
    bad = {"3", "4", "97"}
    endpoint.decide = lambda body: Answer(status) if bad & {r["key"] for r in body["records"]} else None

    result = deliver(endpoint, send([{"id": str(number)} for number in range(100)]))

    code = {413: "too_large", 422: "endpoint_rejected"}[status]
    assert [(record.ordinal, record.reason) for record in result.rejected] == [
        (number, code) for number in (3, 4, 97)
    ]
    assert result.written == len(endpoint.stored) == 97


def test_an_endpoint_may_reject_single_records(endpoint: RecordEndpoint) -> None:
    rejected: list[dict[str, Any]] = [
        {"ordinal": 1, "reason": "duplicate_email", "more": 1},
        {"ordinal": 2, "reason": "ada@example.com is taken"},
        {"ordinal": 4, "reason": "x" * 41},
        {"ordinal": 5},
        {"ordinal": 5, "reason": None},
        {"ordinal": 6, "reason": ["a"]},
    ]
    endpoint.answers = [answer_json({"rejected": rejected})]

    result = deliver(endpoint, send([{"id": str(number)} for number in range(8)]))

    reasons = {record.ordinal: record.reason for record in result.rejected}
    assert reasons == {1: "duplicate_email", **dict.fromkeys((2, 4, 5, 6), "endpoint_rejected")}
    assert result.written == 3
    assert "ada" not in str(result)


EMPTY_ANSWERS: tuple[Any, ...] = (
    *({"rejected": []}, {"rejected": None}, {"rejected": {}}, {"status": "ok"}),
    *([], "ok", None, 1, True),
)
OTHER_FORMS: tuple[Any, ...] = (
    *([{"ordinal": 2}], [{"ordinal": -1}], [{"ordinal": True}], [{"ordinal": "1"}], [{"ordinal": 0.0}]),
    *([{}], [0], [None], 1, "01", {"0": "bad"}),
)


@pytest.mark.parametrize(
    "answer",
    [
        *map(answer_json, EMPTY_ANSWERS),
        Answer(200, {"Content-Type": "text/plain"}, b'{"rejected": [{"ordinal": 0}]}'),
        Answer(200, {"Content-Type": "application/json"}, b""),
    ],
)
def test_an_answer_that_names_no_records_accepts_all(endpoint: RecordEndpoint, answer: Answer) -> None:
    endpoint.answers = [answer]

    assert deliver(endpoint) == WriteResult(2, [])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{", "no valid JSON"),
        (b"\xff", "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (b'{"rejected": [{"ordinal": %s}]}' % (b"9" * 5000), "no valid JSON"),
        *[(json.dumps({"rejected": form}).encode(), "`rejected` of another form") for form in OTHER_FORMS],
        (b" " * 1_000_001, "longer than 1,000,000 bytes"),
    ],
)
def test_an_answer_that_cannot_be_read_is_no_success(
    endpoint: RecordEndpoint, body: bytes, problem: str
) -> None:
    endpoint.answers = [Answer(200, {"Content-Type": "application/json"}, body)]

    with pytest.raises(SinkRefused, match=problem):
        deliver(endpoint)


def test_an_endpoint_that_hangs_costs_its_timeout_and_smaller_batches_follow(
    endpoint: RecordEndpoint,
) -> None:
    endpoint.answers = [hang]
    started_s = time.monotonic()

    with pytest.raises(SinkUnavailable, match=r"did not answer within 0\.5 s") as failure:
        deliver(endpoint, timeout_s=0.5)

    assert failure.value.is_batch_timeout
    assert time.monotonic() - started_s < 3 * measure_slowdown()


def test_the_requests_of_a_batch_share_one_deadline(
    endpoint: RecordEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.sinks.http._BATCH_TIMEOUT_S", 1.0)

    def answer_slowly(_body: Any) -> None:
        endpoint.closed.wait(0.3)

    endpoint.decide = answer_slowly
    many = send([{"id": str(number)} for number in range(50)])

    with pytest.raises(SinkUnavailable) as failure:
        deliver(endpoint, many, max_records=1)

    assert failure.value.is_batch_timeout
    assert 1 <= len(endpoint.requests) <= 4


def test_a_reset_connection_is_a_retry_on_a_new_connection(endpoint: RecordEndpoint) -> None:
    endpoint.answers = [reset]

    with opened(endpoint) as sink:
        with pytest.raises(SinkUnavailable, match="the connection to the endpoint failed"):
            write(sink, TWO, ROUTE)
        assert write(sink, TWO, ROUTE).written == 2


@pytest.mark.parametrize(
    "respond",
    [
        hostile_server.drip_headers,
        hostile_server.drip_body,
        hostile_server.drip_nothing,
        hostile_server.endless_headers,
        hostile_server.endless_chunks,
        hostile_server.large_body,
        hostile_server.gzip_bomb,
    ],
)
def test_no_answer_keeps_or_fills_a_worker(endpoint: RecordEndpoint, respond: Any) -> None:
    started_s = time.monotonic()
    tracemalloc.start()
    try:
        with serving(respond) as url, pytest.raises(SinkUnavailable):
            deliver(endpoint, url=url, timeout_s=1.0)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 20_000_000
    assert time.monotonic() - started_s < 4 * measure_slowdown()


def test_an_unreachable_endpoint_is_unavailable(endpoint: RecordEndpoint) -> None:
    for url in (f"http://127.0.0.1:{find_free_port()}/hidden", "http://nobody.invalid/hidden"):
        with pytest.raises(SinkUnavailable, match="; check its server") as failure:
            deliver(endpoint, url=url)
        assert "hidden" not in str(failure.value)


@pytest.mark.parametrize("host", [f"{'x' * 70}.example", "xn--a.example", "☃\u0338.example", "a..b"])
def test_a_host_that_is_no_name_is_an_error_of_the_sink(endpoint: RecordEndpoint, host: str) -> None:
    with pytest.raises(SinkUnavailable):
        deliver(endpoint, url=f"https://{host}/")


def test_a_certificate_is_verified_for_the_name_of_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)

    with record_endpoint(context) as endpoint:
        with pytest.raises(SinkUnavailable, match="certificate is not valid"):
            deliver(endpoint)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with opened(endpoint) as sink:
            assert write(sink, TWO, ROUTE).written == 2
        with pytest.raises(SinkUnavailable, match="certificate is not valid"):
            deliver(endpoint, url=endpoint.url.replace("localhost", "127.0.0.1"))

    assert names == ["localhost", "localhost", None]


PRIVATE_HOSTS = ["127.0.0.1", "localhost", "0.0.0.0", "2130706433", "0x7f.1", "127.1"]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_private_addresses_are_refused_unless_allowed(endpoint: RecordEndpoint, host: str) -> None:
    url = f"http://{host}:{endpoint.port}/hidden"

    with pytest.raises(SinkRefused, match="has no public address; set allow_private = true") as refusal:
        deliver(endpoint, url=url, allow_private=False)

    assert "hidden" not in str(refusal.value)
    assert endpoint.requests == []
    assert deliver(endpoint, url=url).written == 2


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "10.0.0.1", "192.168.1.1", "100.64.0.1", "::1", "::ffff:169.254.169.254", "fe80::1"],
)
def test_a_name_with_a_private_address_is_refused(
    endpoint: RecordEndpoint, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    with pytest.raises(SinkRefused, match=r"no public address|always refused"):
        deliver(endpoint, url="http://metadata.example/", allow_private=False)


def test_a_name_that_changes_its_address_is_connected_to_the_checked_one(
    endpoint: RecordEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["93.184.216.34"]
    connected = []

    def resolve(host: str, port: int, *_: Any, **__: Any) -> Any:
        address = answers.pop(0) if answers else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(address: Any, *_: Any, **__: Any) -> None:
        connected.append(address[0])
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)

    for error in (SinkUnavailable, SinkRefused):
        with pytest.raises(error):
            deliver(endpoint, url=f"http://rebound.example:{endpoint.port}/", allow_private=False)

    assert connected == ["93.184.216.34"]


def test_no_proxy_of_the_environment_is_used(
    endpoint: RecordEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, endpoint.url)

    with pytest.raises(SinkUnavailable):
        deliver(endpoint, url="http://elsewhere.invalid/")
    with pytest.raises(SinkUnavailable):
        deliver(endpoint, url="http://elsewhere.invalid/", allow_private=False)

    assert endpoint.requests == []
    assert deliver(endpoint).written == 2


def test_no_failure_names_a_secret_a_path_or_a_record(endpoint: RecordEndpoint) -> None:
    body = b'{"rejected": "hidden"}'
    endpoint.answers = [
        *[
            Answer(status, {"Location": "http://hidden/"}, b"hidden")
            for status in (301, 400, 401, 404, 410, 500)
        ],
        *[reset, hang],
        Answer(200, {"Content-Type": "application/json"}, body),
    ]
    messages = []
    with opened(endpoint, headers={"X-Key": "hidden"}, timeout_s=0.3) as sink:
        for _ in range(len(endpoint.answers)):
            with pytest.raises(SinkUnavailable) as failure:
                write(sink, send([{"id": "hidden-record"}]), ROUTE)
            messages.append(str(failure.value))
        for ask in (sink.count, sink.erase):
            with pytest.raises(SinkUnavailable) as failure:
                ask("hidden-account")
            messages.append(str(failure.value))
        messages.append(repr(sink._config))

    assert len(messages) == 12
    assert not [message for message in messages if re.search("hidden|whsec", message)]


def test_a_ping_has_no_records_and_checks_the_answer(endpoint: RecordEndpoint) -> None:
    with opened(endpoint) as sink:
        sink.ping()
        endpoint.answers = [Answer(401)]
        with pytest.raises(SinkRefused, match="answered 401"):
            sink.ping()

    assert [request.body for request in endpoint.requests] == [{"type": "ping", "records": []}] * 2
