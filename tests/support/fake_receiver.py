"""A receiver that answers as it is told, and keeps what it gets."""

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
    """Keeps what it gets; answers what `answer` says of an event and how often it came.

    said: the bodies of its answers, where they are not like ours.
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
    answer: Callable[[dict[str, Any], int], int] = lambda _event, _seen: 200,
    *,
    response_body: bytes | None = None,
) -> Iterator[FakeReceiver]:
    made = FakeReceiver(answer, response_body)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Or every answer waits 40 ms for the acknowledgement of its own headers.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:  # the library's name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, word = made.receive(body, self.headers.get("X-Truto-Signature", ""))
            said = json.dumps({"status": word}).encode() if made.response_body is None else made.response_body
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}/webhooks/truto"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
