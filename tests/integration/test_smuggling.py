"""Requests with ambiguous framing: each is answered by itself, and the next one is not harmed."""

import json
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.schema import deliveries
from app.truto.signature import sign
from tests.support.dashboard import SETTINGS as DASHBOARD
from tests.support.raw_http import RawResponse, send_raw
from tests.support.web_process import SECRET, WebProcess

PATH = "/webhooks/truto"
BODY = b'{"event": "test", "id": "framed"}'
SIGNATURE = sign(BODY, SECRET)
WRONG_SIGNATURE = sign(b"another body", SECRET)
SIGNED = f"X-Truto-Signature: {SIGNATURE}"
LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
# A receiver that takes it for a request of its own answers 404.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
# The connection closes without a response.
CLOSED = 0


def post(
    *lines: str,
    content: bytes = b"",
    target: str = PATH,
    method: str = "POST",
    version: str = "HTTP/1.1",
    host: str = "Host: localhost",
) -> bytes:
    """Return a request; its lines and its content as they are. host: "" for none."""
    head = [f"{method} {target} {version}", *([host] if host else []), *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + content


def post_length(*lines: str, content: bytes = BODY, **request_line: str) -> bytes:
    """Return a signed request with the right length."""
    return post(SIGNED, f"Content-Length: {len(content)}", *lines, content=content, **request_line)


def post_chunks(content: bytes, *lines: str) -> bytes:
    """Return a signed request with these chunks."""
    return post(SIGNED, CHUNKED, *lines, content=content)


# Request, and the statuses that its response may have.
LENGTHS = {
    "two equal lengths": (post(SIGNED, LENGTH, LENGTH, content=BODY), {400}),
    "two lengths, the first is right": (post(SIGNED, LENGTH, "Content-Length: 0", content=BODY), {400}),
    "two lengths, the second is right": (post(SIGNED, "Content-Length: 0", LENGTH, content=BODY), {400}),
    "a list of equal lengths": (post(SIGNED, "Content-Length: 33, 33", content=BODY), {400}),
    "a list of lengths": (post(SIGNED, "Content-Length: 33, 0", content=BODY), {400}),
    "a length with a sign": (post(SIGNED, "Content-Length: +33", content=BODY), {400}),
    "a negative length": (post(SIGNED, "Content-Length: -33", content=BODY), {400}),
    "a hexadecimal length": (post(SIGNED, "Content-Length: 0x21", content=BODY), {400}),
    "a length with an underscore": (post(SIGNED, "Content-Length: 3_3", content=BODY), {400}),
    "a length with a fraction": (post(SIGNED, "Content-Length: 33.0", content=BODY), {400}),
    "a superscript length": (post(SIGNED, "Content-Length: \xb2", content=BODY), {400}),
    "an empty length": (post(SIGNED, "Content-Length: ", content=BODY), {400}),
    "a length of many digits": (post(SIGNED, "Content-Length: " + "9" * 5000, content=BODY), {400}),
    "a length beyond 64 bits": (post(SIGNED, f"Content-Length: {2**64 + 33}", content=BODY), {413}),
    "a length with an underscore in its name": (post(SIGNED, "Content_Length: 33", content=BODY), {401}),
    "a length with leading zeros": (post(SIGNED, "Content-Length: 00033", content=BODY), {200}),
    "a length with a tab": (post(SIGNED, "Content-Length:\t33\t", content=BODY), {200}),
    "a length with a vertical tab": (post(SIGNED, "Content-Length: \x0b33", content=BODY), {400}),
    "no length": (post(SIGNED, content=SMUGGLED.replace(b"GET", b"G\x00T")), {401}),
    "an unsigned body like a request": (post(f"Content-Length: {len(SMUGGLED)}", content=SMUGGLED), {401}),
    "a GET with a body like a request": (
        post(f"Content-Length: {len(SMUGGLED)}", content=SMUGGLED, method="GET"),
        {405},
    ),
    "a body like a request for another path": (
        post(f"Content-Length: {len(SMUGGLED)}", content=SMUGGLED, target="/nowhere"),
        {404},
    ),
    "a health check with a body like a request": (
        post(f"Content-Length: {len(SMUGGLED)}", content=SMUGGLED, target="/healthz", method="GET"),
        {200},
    ),
    "a sign-in with a body like a request": (
        post(f"Content-Length: {len(SMUGGLED)}", content=SMUGGLED, target="/login"),
        {400, 401, 403, 415, 422},
    ),
}

CODINGS = {
    "length and chunked": (post(SIGNED, LENGTH, CHUNKED, content=CHUNKS), {400}),
    "chunked and length": (post(SIGNED, CHUNKED, LENGTH, content=CHUNKS), {400}),
    "length and chunked around a request": (
        post(SIGNED, f"Content-Length: {len(SMUGGLED) + 5}", CHUNKED, content=b"0\r\n\r\n" + SMUGGLED),
        {400},
    ),
    "chunked twice": (post(SIGNED, CHUNKED, CHUNKED, content=CHUNKS), {400}),
    "chunked twice in a list": (post(SIGNED, "Transfer-Encoding: chunked, chunked", content=CHUNKS), {400}),
    "chunked, then identity": (post(SIGNED, "Transfer-Encoding: chunked, identity", content=CHUNKS), {400}),
    "identity, then chunked": (post(SIGNED, "Transfer-Encoding: identity, chunked", content=CHUNKS), {200}),
    "identity and a length": (post(SIGNED, "Transfer-Encoding: identity", LENGTH, content=BODY), {400}),
    "gzip, then chunked": (post(SIGNED, "Transfer-Encoding: gzip, chunked", content=CHUNKS), {200, 400, 501}),
    "chunked, then gzip": (post(SIGNED, "Transfer-Encoding: chunked, gzip", content=CHUNKS), {400}),
    "gzip and a length": (post(SIGNED, "Transfer-Encoding: gzip", LENGTH, content=BODY), {400}),
    "an unknown coding": (post(SIGNED, "Transfer-Encoding: xchunked", content=CHUNKS), {501}),
    "a coding with a parameter": (post(SIGNED, "Transfer-Encoding: chunked;q=1", content=CHUNKS), {501}),
    "a coding in quotation marks": (post(SIGNED, 'Transfer-Encoding: "chunked"', content=CHUNKS), {501}),
    "an empty coding": (post(SIGNED, "Transfer-Encoding: ", content=CHUNKS), {400, 501}),
    "an empty coding in a list": (post(SIGNED, "Transfer-Encoding: chunked,", content=CHUNKS), {400, 501}),
    "upper case": (post(SIGNED, "TRANSFER-ENCODING: CHUNKED", content=CHUNKS), {200}),
    "a tab before the coding": (post(SIGNED, "Transfer-Encoding:\tchunked", content=CHUNKS), {200}),
    "a tab behind the coding": (post(SIGNED, "Transfer-Encoding: chunked\t", content=CHUNKS), {200}),
    "a vertical tab before it": (post(SIGNED, "Transfer-Encoding: \x0bchunked", content=CHUNKS), {400}),
    "a vertical tab behind it": (post(SIGNED, "Transfer-Encoding: chunked\x0b", content=CHUNKS), {400}),
    "a no-break space before it": (post(SIGNED, "Transfer-Encoding: \xa0chunked", content=CHUNKS), {501}),
    "a NUL behind it": (post(SIGNED, "Transfer-Encoding: chunked\x00", content=CHUNKS), {400}),
    "a space before the colon": (post(SIGNED, "Transfer-Encoding : chunked", content=CHUNKS), {400}),
    "a space before the name": (post(SIGNED, " Transfer-Encoding: chunked", content=CHUNKS), {400}),
    "an underscore in the name": (post(SIGNED, "Transfer_Encoding: chunked", content=CHUNKS), {401}),
    "a coding on a folded line": (post(SIGNED, "Transfer-Encoding:", " chunked", content=CHUNKS), {400}),
    "a coding behind a bare CR": (post(SIGNED, f"X: a\r{CHUNKED}", content=CHUNKS), {400}),
    "a coding behind a bare LF": (post(SIGNED, f"X: a\n{CHUNKED}", content=CHUNKS), {400}),
    "chunked in HTTP/1.0": (post(SIGNED, CHUNKED, content=CHUNKS, version="HTTP/1.0"), {400}),
}

HEADERS = {
    "bare LF as the end of each line": (post_length().replace(b"\r\n", b"\n"), {400}),
    "bare LF as the end of the head": (post_length().replace(b"\r\n\r\n", b"\n\n"), {400, CLOSED}),
    "a folded line": (post_length("X: a", "\tb"), {400}),
    "a folded signature": (post("X-Truto-Signature:", f" {SIGNATURE}", LENGTH, content=BODY), {400}),
    "a NUL in a value": (post_length("X: a\x00b"), {400}),
    "a control character in a value": (post_length("X: a\x1bb"), {400}),
    "a DEL in a value": (post_length("X: a\x7fb"), {400}),
    "Latin-1 in a value": (post_length("X: \xe9"), {200}),
    "a NUL in a name": (post_length("X\x00: a"), {400}),
    "Latin-1 in a name": (post_length("X\xe9: a"), {400}),
    "a space in a name": (post_length("X Y: a"), {400}),
    "a name without a colon": (post_length("X"), {400}),
    "an empty name": (post_length(": a"), {400}),
    "a space behind the name": (post(f"X-Truto-Signature : {SIGNATURE}", LENGTH, content=BODY), {400}),
    "a signature with underscores": (post(f"X_Truto_Signature: {SIGNATURE}", LENGTH, content=BODY), {401}),
    "a wrong signature, and a right one with underscores": (
        post(
            f"X-Truto-Signature: {WRONG_SIGNATURE}",
            f"X_Truto_Signature: {SIGNATURE}",
            LENGTH,
            content=BODY,
        ),
        {401},
    ),
    "two equal signatures": (post(SIGNED, SIGNED, LENGTH, content=BODY), {401}),
    "a wrong signature first": (
        post(f"X-Truto-Signature: {WRONG_SIGNATURE}", SIGNED, LENGTH, content=BODY),
        {401},
    ),
    "a wrong signature last": (
        post(SIGNED, f"X-Truto-Signature: {WRONG_SIGNATURE}", LENGTH, content=BODY),
        {401},
    ),
    "a signature in two headers": (
        post(*(f"X-Truto-Signature: {part}" for part in SIGNATURE.split(",")), LENGTH, content=BODY),
        {200},
    ),
    "two hosts": (post_length("Host: localhost"), {400}),
    "two other hosts": (post_length("Host: elsewhere"), {400}),
    "no host": (post_length(host=""), {200, 400}),
    "a host that is none": (post_length(host="Host: a b/../@c"), {200, 400}),
    "a path in SCRIPT_NAME": (post_length("SCRIPT_NAME: /webhooks"), {200}),
    "another path in SCRIPT_NAME": (post_length("SCRIPT_NAME: /elsewhere"), {200}),
    "a path in PATH_INFO": (post_length("PATH_INFO: /metrics"), {200}),
    "another method in a header": (post_length("X-HTTP-Method-Override: GET"), {200}),
    "another path in a header": (post_length("X-Original-URL: /metrics", "X-Rewrite-URL: /metrics"), {200}),
    "101 headers": (post_length(*(f"X-{number}: a" for number in range(101))), {431, CLOSED}),
    "10,000 headers": (post_length(*(f"X-{number}: a" for number in range(10_000))), {431, CLOSED}),
    "a header of 9 KB": (post_length("X: " + "a" * 9_000), {431, CLOSED}),
    "a header of 100 KB": (post_length("X: " + "a" * 100_000), {431, CLOSED}),
}

LINES = {
    "an absolute target": (post_length(target=f"http://elsewhere{PATH}"), {200, 400}),
    "a target of another scheme": (post_length(target=f"ftp://elsewhere{PATH}"), {200, 400}),
    "a target without a path": (post_length(target="localhost:80"), {400}),
    "an asterisk as the target": (post_length(target="*"), {400}),
    "a target with dots": (post_length(target="/x/../webhooks/truto"), {404}),
    "a target with encoded slashes": (post_length(target="/webhooks%2ftruto"), {200, 404}),
    "a target with two slashes": (post_length(target="//webhooks//truto"), {404}),
    "a target with a NUL": (post_length(target=f"{PATH}\x00"), {400}),
    "a target with an encoded NUL": (post_length(target=f"{PATH}%00"), {404}),
    "a target with a fragment": (post_length(target=f"{PATH}#a"), {200, 400}),
    "a target of 9 KB": (post_length(target=PATH + "?" + "a" * 9_000), {414}),
    "a target of 100 KB": (post_length(target=PATH + "?" + "a" * 100_000), {414, CLOSED}),
    "a method in lower case": (post_length(method="post"), {400}),
    "CONNECT": (post_length(method="CONNECT", target="localhost:80"), {400, 404, 405}),
    "TRACE": (post_length(method="TRACE"), {405}),
    "HTTP/0.9": (b"GET /healthz\r\n", {400, CLOSED}),
    "HTTP/0.9 in numbers": (post_length(version="HTTP/0.9"), {400}),
    "HTTP/1.2": (post_length(version="HTTP/1.2"), {200, 400, 505}),
    "HTTP/2.0": (post_length(version="HTTP/2.0"), {400, 505}),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "an upgrade to HTTP/2": (
        post_length("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        {200},
    ),
    "an upgrade to WebSocket": (post_length("Connection: Upgrade", "Upgrade: websocket"), {200}),
    "the PROXY protocol": (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + post_length(), {400}),
    "HTTP/1.0": (post_length(version="HTTP/1.0"), {200}),
    "HTTP/1.0 with keep-alive": (post_length("Connection: keep-alive", version="HTTP/1.0"), {200}),
    "a space behind the version": (post_length(version="HTTP/1.1 "), {400}),
    "two spaces in the line": (post_length(target=f" {PATH}"), {400}),
    "a tab in the line": (post_length(target=f"{PATH}\t"), {400}),
    "an empty line first": (b"\r\n" + post_length(), {200}),
    "a space first": (b" " + post_length(), {400}),
    "waiting for 100 Continue": (post_length("Expect: 100-continue"), {200}),
    "waiting for 100 Continue, unsigned": (
        post("Expect: 100-continue", f"Content-Length: {len(SMUGGLED)}", content=SMUGGLED),
        {401},
    ),
    "waiting for 100 Continue in HTTP/1.0": (post_length("Expect: 100-continue", version="HTTP/1.0"), {200}),
    "another expectation": (post_length("Expect: 200-ok"), {417}),
}

FIRST, REST = BODY[:5], BODY[5:]
CHUNK_SIZES = {
    "two chunks": (post_chunks(b"5\r\n%b\r\n1c\r\n%b\r\n0\r\n\r\n" % (FIRST, REST)), {200}),
    "a size in upper case": (post_chunks(b"5\r\n%b\r\n1C\r\n%b\r\n0\r\n\r\n" % (FIRST, REST)), {200}),
    "a size with zeros": (post_chunks(b"00000021\r\n%b\r\n000\r\n\r\n" % BODY), {200}),
    "a negative size": (post_chunks(b"-21\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "a size with a sign": (post_chunks(b"+21\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "a size with 0x": (post_chunks(b"0x21\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "a size with an underscore": (post_chunks(b"2_1\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "a size with a space before it": (post_chunks(b" 21\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "a size with a space behind it": (post_chunks(b"21 \r\n%b\r\n0\r\n\r\n" % BODY), {200, 408}),
    "a size with a vertical tab": (post_chunks(b"21\x0b\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "an empty size": (post_chunks(b"\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "a size beyond 32 bits": (post_chunks(b"100000021\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "a size beyond 64 bits": (post_chunks(b"10000000000000021\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "a size of many digits": (post_chunks(b"0" * 9000 + b"21\r\n%b\r\n0\r\n\r\n" % BODY), {200, 408}),
    "a size without an end": (post_chunks(b"1" * 100_000), {408, CLOSED}),
    "a size that is too small": (post_chunks(b"20\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "a size that is too large": (post_chunks(b"22\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "no CRLF behind a chunk": (post_chunks(b"21\r\n%b0\r\n\r\n" % BODY), {408}),
    "bare LF behind a size": (post_chunks(b"21\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "bare LF behind a chunk": (post_chunks(b"21\r\n%b\n0\r\n\r\n" % BODY), {408}),
    "bare LF at the end": (post_chunks(b"21\r\n%b\r\n0\n\n" % BODY), {408}),
    "bare CR behind a size": (post_chunks(b"21\r%b\r\n0\r\n\r\n" % BODY), {408}),
    "no last chunk": (post_chunks(b"21\r\n%b\r\n" % BODY), {408}),
    "only the last chunk": (post_chunks(b"0\r\n\r\n"), {401}),
    "a request behind the last chunk of another body": (post(CHUNKED, content=b"0\r\n\r\n"), {401}),
}

EXTENSIONS_AND_TRAILERS = {
    "an extension": (post_chunks(b"21;a=b\r\n%b\r\n0;c\r\n\r\n" % BODY), {200}),
    "a quoted extension": (post_chunks(b'21;a="b;c"\r\n%b\r\n0\r\n\r\n' % BODY), {200}),
    "an extension with CRLF in quotation marks": (
        post_chunks(b'21;a="\r\n%b\r\n0\r\n\r\n' % BODY),
        {408},
    ),
    "an extension with a bare LF": (post_chunks(b"21;a\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "an extension with a bare CR": (post_chunks(b"21;a\rb\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "an extension with a NUL": (post_chunks(b"21;a=\x00\r\n%b\r\n0\r\n\r\n" % BODY), {408}),
    "an extension of 9 KB": (post_chunks(b"21;a=%b\r\n%b\r\n0\r\n\r\n" % (b"b" * 9000, BODY)), {200, 408}),
    "a trailer": (post_chunks(b"21\r\n%b\r\n0\r\nX: a\r\n\r\n" % BODY, "Trailer: X"), {200}),
    "a signature as a trailer": (
        post(CHUNKED, content=b"21\r\n%b\r\n0\r\n%b\r\n\r\n" % (BODY, SIGNED.encode())),
        {401},
    ),
    "a right signature as a trailer behind a wrong one": (
        post(
            f"X-Truto-Signature: {WRONG_SIGNATURE}",
            CHUNKED,
            content=b"21\r\n%b\r\n0\r\n%b\r\n\r\n" % (BODY, SIGNED.encode()),
        ),
        {401},
    ),
    "a length as a trailer": (post_chunks(b"21\r\n%b\r\n0\r\nContent-Length: 9\r\n\r\n" % BODY), {408}),
    "a coding as a trailer": (post_chunks(b"21\r\n%b\r\n0\r\n%b\r\n\r\n" % (BODY, CHUNKED.encode())), {408}),
    "a host as a trailer": (post_chunks(b"21\r\n%b\r\n0\r\nHost: a\r\n\r\n" % BODY), {408}),
    "a trailer that is none": (post_chunks(b"21\r\n%b\r\n0\r\nGET / HTTP/1.1\r\n\r\n" % BODY), {408}),
    "a trailer with a bare LF": (post_chunks(b"21\r\n%b\r\n0\r\nX: a\nY: b\r\n\r\n" % BODY), {200, 408}),
    "1,000 trailers": (post_chunks(b"21\r\n%b\r\n0\r\n%b\r\n" % (BODY, b"X: a\r\n" * 1000)), {408}),
    "a trailer of 100 KB": (
        post_chunks(b"21\r\n%b\r\n0\r\nX: %b\r\n\r\n" % (BODY, b"a" * 100_000)),
        {408, CLOSED},
    ),
}

CASES = LENGTHS | CODINGS | HEADERS | LINES | CHUNK_SIZES | EXTENSIONS_AND_TRAILERS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('store')}/inbox.db")
    migrate(database)
    yield database
    database.close()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, store: Database, redis_url: str) -> Iterator[WebProcess]:
    folder, url = tmp_path_factory.mktemp("web"), str(store.engine.url)
    with WebProcess(folder, database_url=url, redis_url=redis_url, **DASHBOARD) as process:
        yield process


def list_bodies(store: Database) -> set[bytes]:
    inbox = Inbox(store)
    with store.engine.connect() as connection:
        ids = connection.execute(deliveries.select().with_only_columns(deliveries.c.id)).scalars().all()
    return {inbox.read_body(id_) for id_ in ids}


def make_next() -> tuple[bytes, bytes]:
    """Return another signed body, and its request, the last one on its connection."""
    body = json.dumps({"event": "test", "id": str(uuid4())}).encode()
    lines = f"X-Truto-Signature: {sign(body, SECRET)}", f"Content-Length: {len(body)}", "Connection: close"
    return body, post(*lines, content=body)


def assert_next_is_unharmed(store: Database, responses: list[RawResponse], body: bytes) -> None:
    """Check the responses behind that of the case: none, a refusal of its remaining bytes, or that of `body`."""
    if not responses or responses[0].http_status == 400:
        assert len(responses) <= 1
        return
    [response] = responses
    answer = json.loads(response.body)
    assert (response.http_status, answer["status"]) == (200, "accepted")
    assert Inbox(store).read_body(UUID(answer["delivery"])) == body


@pytest.mark.parametrize("piece_bytes", [0, 7])
@pytest.mark.parametrize("name", CASES)
def test_a_request_with_ambiguous_framing_harms_no_other(
    web: WebProcess, store: Database, name: str, piece_bytes: int
) -> None:
    request, statuses = CASES[name]
    body, next_request = make_next()
    before = list_bodies(store)
    if len(request) > 20_000:
        piece_bytes *= 1000

    first, *others = send_raw(web.port, request + next_request, piece_bytes=piece_bytes) or [
        RawResponse(CLOSED, b"")
    ]

    assert first.http_status in statuses
    assert_next_is_unharmed(store, others, body)
    assert list_bodies(store) - before <= {BODY, body}
    # A receiver that was harmed would refuse it.
    assert web.post(BODY).http_status == 200
    assert "Traceback" not in web.log
    assert "level=error" not in web.log
