"""A campaign against a web process: mutated requests over kept connections, and raw ones."""

import contextlib
import http.client
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from urllib.parse import quote_from_bytes
from uuid import uuid4

from app.database.engine import open_database
from app.store.migrate import migrate
from app.store.response_counts import STORED
from app.truto.signature import sign
from app.truto.target_url import WEBHOOK_PATH
from app.web.responses import WebhookStatus
from tests.fuzz.corpus import read_corpus
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import TARGETS, Target
from tests.support.dashboard import SETTINGS as DASHBOARD
from tests.support.web_process import SECRET, WebProcess

# A response takes milliseconds, and the receiver waits for at most 20 s for a body. Long, for a busy machine.
RESPONSE_TIMEOUT_S = 90.0
BATCH_REQUESTS = 50
# In each request without a valid signature. No log line may have it.
MARK = "mark-of-an-unsigned-client"
# Of pages, gunicorn and Werkzeug, beyond those of the webhook.
_OTHER_STATUSES = {303, 403, 409, 414, 415, 417, 429, 431, 501, 505}
STATUSES = {status.http_status for status in WebhookStatus} - {500} | _OTHER_STATUSES
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "LONGER")
_PATHS = (
    *("/", "/login", "/runs", "/deliveries", "/failed", "/overview", "/healthz", "/metrics", "/openapi.json"),
    *(
        "/runs/r",
        "/accounts/a",
        "/deliveries/0",
        "/operations/0",
        "/assets/dashboard.css",
        "/sinks",
        "/audit",
    ),
    *(WEBHOOK_PATH, f"{WEBHOOK_PATH}/", "//webhooks//truto", "/webhooks/truto/..;/", "/%2e%2e/login"),
)
_PARAMETERS = ("after", "id", "since", "until", "state", "resource", "account", "next", "sort", "run", "%00")
_HEADERS = (
    "Content-Type",
    "Accept",
    "Cookie",
    "Authorization",
    "X-Forwarded-For",
    "Traceparent",
    "Range",
    "Host",
)
_RAW_TOKENS = tuple(
    token.encode("latin-1")
    for token in (
        *(
            "\r\n",
            "\n",
            "\r",
            "\0",
            " ",
            "\t",
            ":",
            "\xff",
            "HTTP/1.0",
            "HTTP/2",
            "0\r\n\r\n",
            "ffffffff\r\n",
        ),
        *("Content-Length: 5\r\n", "Content-Length: -1\r\n", "Content-Encoding: gzip\r\n", "Host: a\r\n"),
        *("Transfer-Encoding: chunked\r\n", "Transfer-Encoding: gzip, chunked\r\n", " folded\r\n"),
        *("Expect: 100-continue\r\n", "Connection: close\r\n", "X-Truto-Signature: v=\r\n"),
        "GET / HTTP/1.1\r\n\r\n",
    )
)
# Events that start a run are read further than others.
_ROUTES = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[[routes]]
resource = "ticketing/*"
sinks = ["main"]

[gate]
unrouted = true
overlapping = true
"""


def start_web(folder: Path, redis_url: str) -> WebProcess:
    """Return a web process with a SQLite inbox, a gate and the dashboard; entering it starts it."""
    database_url = f"sqlite:///{folder}/inbox.db"
    store = open_database(database_url)
    migrate(store)
    store.close()
    (folder / "routes.toml").write_text(_ROUTES)
    settings = {**DASHBOARD, "MAX_BODY_BYTES": "65536", "ROUTES_FILE": str(folder / "routes.toml")}
    return WebProcess(folder, database_url=database_url, redis_url=redis_url, **settings)


def check_log(web: WebProcess) -> None:
    """Check that no request failed, and that no line quotes an unsigned client."""
    lines = web.log.splitlines()
    failed = [line for line in lines if "level=error" in line or "Traceback" in line or MARK in line]
    assert not failed, failed[:5]


class HttpCampaign:
    """Sends requests of each kind in turn. responses: their numbers, by kind and HTTP status."""

    def __init__(self, web: WebProcess, *, seed: str, cookies: str = "") -> None:
        self._web = web
        self._cookies = cookies
        self._random = Random(f"{seed} http")
        self._bodies = Mutator(TARGETS["envelope"], read_corpus("envelope"), f"{seed} bodies")
        self._signatures = Mutator(
            TARGETS["signature_header"], read_corpus("signature_header"), f"{seed} signatures"
        )
        self._raw = Mutator(Target(lambda _: None, _RAW_TOKENS), _list_raw_requests(), f"{seed} raw")
        self._connection: http.client.HTTPConnection | None = None
        self.responses: Counter[tuple[str, int]] = Counter()

    def run(self, requests: int) -> None:
        """Send the corpus, and this many mutated requests; raises AssertionError with the first that fails."""
        kinds = (
            self._send_signed,
            self._send_unsigned,
            self._send_signed,
            self._send_elsewhere,
            self._send_raw,
        )
        with contextlib.closing(self):
            for body in read_corpus("envelope"):
                self._send_body("corpus", body)
            for number in range(requests):
                kinds[number % len(kinds)]()
                if number % BATCH_REQUESTS == 0:
                    self._check_service()
            self._check_service()

    def close(self) -> None:
        """Close the kept connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send_signed(self) -> None:
        self._send_body("signed", self._bodies.mutate())

    def _send_body(self, kind: str, body: bytes) -> None:
        status, content = self._exchange(
            "POST", WEBHOOK_PATH, body, {"X-Truto-Signature": sign(body, SECRET)}
        )
        self._count(kind, status, body)
        word = WebhookStatus(json.loads(content)["status"])
        assert word in STORED, f"a signed body is answered {word.value}: {body!r}"
        assert word.http_status == status

    def _send_unsigned(self) -> None:
        header = self._signatures.mutate().translate(None, b"\r\n\0").decode("latin-1")
        body = MARK.encode() + self._bodies.mutate()
        status, _ = self._exchange("POST", WEBHOOK_PATH, body, {"X-Truto-Signature": header})
        self._count("unsigned", status, body)
        assert status in (401, 400, 431), f"an unsigned body is answered {status}: {header!r}"

    def _send_elsewhere(self) -> None:
        random = self._random
        path = random.choice(_PATHS)
        if random.random() < 0.7:
            value = quote_from_bytes(self._bodies.mutate()[:300])
            path += f"?{random.choice(_PARAMETERS)}={value}"
        headers = {"Cookie": self._cookies} if self._cookies and random.random() < 0.7 else {}
        name = random.choice(_HEADERS)
        headers.setdefault(
            name, MARK + self._signatures.mutate().translate(None, b"\r\n\0").decode("latin-1")
        )
        body = random.choice((b"", b"", MARK.encode()))
        method = random.choice(_METHODS)
        status, _ = self._exchange(method, path, body, headers)
        self._count("elsewhere", status, f"{method} {path}".encode())

    def _send_raw(self) -> None:
        """Send bytes that may be no request, on a connection of their own, and read to its end."""
        content = self._raw.mutate()
        with socket.create_connection(
            ("127.0.0.1", self._web.port), timeout=RESPONSE_TIMEOUT_S
        ) as connection:
            try:
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
                received = b"".join(iter(lambda: connection.recv(65536), b""))
            except TimeoutError as error:
                raise AssertionError(f"no answer and no end of the connection: {content!r}") from error
            except ConnectionError:
                # The receiver may close while bytes are on their way.
                received = b""
        status = int(received[9:12]) if received.startswith(b"HTTP/1.") else 0
        self._count("raw", status, content)

    def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Send a request on the kept connection, or on a new one if the receiver has closed it."""
        while True:
            is_new = self._connection is None
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    "127.0.0.1", self._web.port, timeout=RESPONSE_TIMEOUT_S
                )
            try:
                self._connection.putrequest(method, path, skip_host="Host" in headers)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self._connection.putheader(name, value.encode("latin-1"))
                self._connection.endheaders(body)
                response = self._connection.getresponse()
                content = response.read()
            except TimeoutError as error:
                raise AssertionError(
                    f"no response to {method} {path!r} with {headers!r}: {body!r}"
                ) from error
            except (http.client.HTTPException, ConnectionError):
                # The receiver may have closed a kept connection meanwhile.
                self.close()
                if is_new:
                    raise
                continue
            if response.will_close:
                self.close()
            return response.status, content

    def _check_service(self) -> None:
        """Check that a normal delivery on a new connection is accepted."""
        body = json.dumps({"id": str(uuid4()), "event": "test", "payload": {}}).encode()
        started = time.monotonic()
        assert self._web.post(body).status == "accepted"
        assert time.monotonic() - started < RESPONSE_TIMEOUT_S

    def _count(self, kind: str, status: int, content: bytes) -> None:
        self.responses[kind, status] += 1
        assert status in STATUSES or (kind == "raw" and status == 0), f"{kind}: {status} for {content!r}"


def _list_raw_requests() -> Iterator[bytes]:
    body = b'{"event": "test", "id": "raw"}'
    signature = b"X-Truto-Signature: " + sign(body, SECRET).encode()
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (WEBHOOK_PATH.encode(), signature)
    yield head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    yield head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    yield b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
    yield b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\npassword=a"
