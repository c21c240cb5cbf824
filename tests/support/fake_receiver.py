"""Fake receiver that returns chosen statuses and records the requests."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from app.errors import SignatureError
from app.truto.signature import parse_signature_header, verify

SECRET = "s"


class FakeReceiver:
    """Records bodies and signatures.

    answer: returns the HTTP status for an event and the number of its earlier deliveries. response_body: the
    body of every response; None for one like our receiver's.
    """

    def __init__(self, answer: Callable[[dict[str, Any], int], int], response_body: bytes | None) -> None:
        self.bodies: list[bytes] = []
        self.signatures: list[str] = []
        self.forged: list[str] = []
        self.response_body = response_body
        self.url = ""
        self._answer = answer
        self._lock = threading.Lock()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    @property
    def actions(self) -> list[str]:
        return [event["event"].partition(":")[2] for event in self.events]

    def receive(self, body: bytes, signature: str) -> tuple[int, str]:
        try:
            verify(body, parse_signature_header(signature), [SECRET])
        except SignatureError:
            self.forged.append(signature)
            return 401, "unauthorized"
        with self._lock:
            earlier_count = self.bodies.count(body)
            self.bodies.append(body)
            self.signatures.append(signature)
        status = self._answer(json.loads(body), earlier_count)
        return status, {200: "duplicate" if earlier_count else "accepted", 400: "refused"}.get(
            status, "unavailable"
        )


@contextmanager
def running_receiver(
    answer: Callable[[dict[str, Any], int], int] = lambda _event, _earlier: 200,
    *,
    response_body: bytes | None = None,
) -> Iterator[FakeReceiver]:
    receiver = FakeReceiver(answer, response_body)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # With Nagle's algorithm, every answer waits 40 ms for the acknowledgement of its headers.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:  # http.server calls this name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, status_name = receiver.receive(body, self.headers.get("X-Truto-Signature", ""))
            response = receiver.response_body
            if response is None:
                response = json.dumps({"status": status_name}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/webhooks/truto"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
