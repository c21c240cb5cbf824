"""Signed bodies with a content encoding or of another content type: kept as they were sent."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import httpx
import pytest

from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.truto.signature import sign
from tests.support.web_process import SECRET, ParsedResponse, WebProcess, parse_response

MIB = 1024 * 1024
FORM_TYPE = "multipart/form-data; boundary=x"


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('store')}/inbox.db")
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory, store: Database, redis_url: str) -> Iterator[WebProcess]:
    folder, url = tmp_path_factory.mktemp("web"), str(store.engine.url)
    with WebProcess(folder, database_url=url, redis_url=redis_url) as process:
        yield process


def make_event(filler: str = "") -> bytes:
    return json.dumps({"event": "test", "id": str(uuid4()), "payload": {"filler": filler}}).encode()


def compress_raw(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw deflate": compress_raw,
    # One block of 64 KiB at most, without compression: RFC 7932, section 9.2.
    "br": lambda body: b"\x0b" + (len(body) - 1).to_bytes(2, "little") + b"\x80" + body + b"\x03",
    "gzip, gzip": lambda body: gzip.compress(gzip.compress(body)),
}


def post(web: WebProcess, body: bytes, signed: bytes, **headers: str) -> ParsedResponse:
    """Send a body with the signature of `signed`. headers: names with "_" for "-"."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["X-Truto-Signature"] = sign(signed, SECRET)
    return parse_response(httpx.post(f"{web.url}/webhooks/truto", content=body, headers=named, timeout=60))


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_signed_body_with_a_content_encoding_is_kept_as_it_was_sent(
    web: WebProcess, store: Database, encoding: str
) -> None:
    event = make_event()
    encoded = ENCODERS[encoding](event)
    name = encoding.removeprefix("raw ")

    kept = post(web, encoded, encoded, Content_Encoding=name)
    # The signature is that of the bytes sent.
    unsigned = post(web, encoded, event, Content_Encoding=name)

    assert (kept.http_status, kept.status, kept.message) == (200, "quarantined", "not_json")
    assert Inbox(store).read_body(UUID(kept.delivery)) == encoded
    assert (unsigned.http_status, unsigned.status) == (401, "unauthorized")


def test_a_plain_body_with_a_content_encoding_is_an_event(web: WebProcess) -> None:
    event = make_event()

    assert post(web, event, event, Content_Encoding="gzip").status == "accepted"


def test_a_compression_bomb_is_only_its_bytes(web: WebProcess, store: Database) -> None:
    # 1 MiB that becomes 1 GiB, by two layers of which each has a ratio of 1,000.
    bomb = gzip.compress(gzip.compress(bytes(64 * MIB)) * 16)
    assert len(bomb) < MIB

    answer = post(web, bomb, bomb, Content_Encoding="gzip, gzip")

    assert (answer.http_status, answer.status) == (200, "quarantined")
    assert Inbox(store).read_body(UUID(answer.delivery)) == bomb


def test_a_signed_form_is_kept_as_it_was_sent(web: WebProcess, store: Database) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="payload"\r\n\r\n%b\r\n'
    form = part % make_event() + b"--x--\r\n"
    many = part % b"a" * 20_000 + b"--x--\r\n"
    headless = b"--x\r\n" + b"A: b\r\n" * 100_000

    for body in (form, many, headless, b"--x", b""):
        answer = post(web, body, body, Content_Type=FORM_TYPE)

        assert (answer.http_status, answer.status) == (200, "quarantined")
        assert Inbox(store).read_body(UUID(answer.delivery)) == body


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        FORM_TYPE,
        "application/json; charset=utf-16",
        "/",
    ],
)
def test_an_event_of_any_content_type_is_accepted(web: WebProcess, content_type: str) -> None:
    event = make_event()

    assert post(web, event, event, Content_Type=content_type).status == "accepted"
