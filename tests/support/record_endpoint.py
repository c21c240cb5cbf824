"""An endpoint for http sinks: verifies each request, keeps the newest versions, and fails when it should."""

import json
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

from app.config.sinks import HttpSinkConfig
from app.sinks.http import HttpSink
from tests.support.fake_endpoint import SECRET, compute_signature


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request."""

    status: int = 200
    headers: Mapping[str, str] | None = None
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class ReceivedRecords:
    """One request. raw: its body; body: the value of it, with exact decimals."""

    id: str
    headers: Mapping[str, str]
    raw: bytes
    body: Any


class RecordEndpoint:
    """Stores records and answers 200. Stores nothing if it gives the next of `answers`, or that of `decide`.

    answers: each may be a function, such as `hang` and `reset`. decide: returns the answer to a body, or None.
    stored: by resource, account and key. sink: one that sends to this endpoint.
    """

    answers: list[Answer | Callable[["_Handler"], None]]
    decide: Callable[[Any], Answer | None]
    requests: list[ReceivedRecords]
    stored: dict[tuple[str, str, str], dict[str, Any]]

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.clear()
        self.closed = Event()
        self.lock = Lock()
        handler = type("Handler", (_Handler,), {"endpoint": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/records/hidden-path"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{self.port}/records/hidden-path"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.sink = HttpSink(self.configure())

    def clear(self) -> None:
        """Forget all requests, records and answers."""
        self.answers, self.requests, self.stored = [], [], {}
        self.decide = lambda _body: None

    def configure(self, **changes: Any) -> HttpSinkConfig:
        """Return the configuration of a sink with this endpoint."""
        settings = {"type": "http", "url": self.url, "secret": SECRET, "allow_private": True, **changes}
        return HttpSinkConfig.model_validate(settings)

    def store(self, request: ReceivedRecords) -> None:
        """Store the records that are newer than the stored ones."""
        body = request.body
        for record in body["records"]:
            place = (body["resource"], body["account"], record["key"])
            stored = self.stored.get(place)
            if stored is None or (stored["version"], stored["sequence"]) < (
                record["version"],
                record["sequence"],
            ):
                self.stored[place] = record

    def close(self) -> None:
        """Stop the server, and end the requests without an answer."""
        self.sink.close()
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    endpoint: RecordEndpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        endpoint = self.endpoint
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        request = _verify_request(dict(self.headers.items()), raw)
        with endpoint.lock:
            endpoint.requests.append(request)
            answer = endpoint.answers.pop(0) if endpoint.answers else endpoint.decide(request.body)
            if answer is None and request.body["type"] == "records":
                endpoint.store(request)
        if callable(answer):
            self.close_connection = True
            answer(self)
        else:
            self.answer(answer or Answer())

    def answer(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {**(answer.headers or {}), "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        pass


def hang(handler: _Handler) -> None:
    """Send no answer until the endpoint closes."""
    handler.endpoint.closed.wait(60)


def reset(handler: _Handler) -> None:
    """Reset the connection in the middle of the answer."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@contextmanager
def record_endpoint(tls: ssl.SSLContext | None = None) -> Iterator[RecordEndpoint]:
    """An endpoint on a free port of the loopback."""
    endpoint = RecordEndpoint(tls)
    yield endpoint
    endpoint.close()


def answer_json(value: Any, status: int = 200) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(value).encode())


def _verify_request(headers: Mapping[str, str], raw: bytes) -> ReceivedRecords:
    names = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp = names["webhook-id"], names["webhook-timestamp"]
    assert names["webhook-signature"] == compute_signature(message_id, timestamp, raw)
    assert abs(time.time() - int(timestamp)) < 60
    assert names["idempotency-key"] == message_id
    assert names["content-type"] == "application/json"
    return ReceivedRecords(message_id, names, raw, json.loads(raw, parse_float=Decimal))
