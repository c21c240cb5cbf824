"""Fake subscriber of notifications, with its own verification of signatures."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request. id, sent_at: from its signature; "" and 0 if it is not signed."""

    path: str
    id: str
    sent_at: int
    body: Any


class FakeEndpoint:
    """Answers 200, or the next of `responses`: a status with headers, or None for no answer until `close`."""

    def __init__(self, before_response: Callable[[], None] = lambda: None) -> None:
        self.responses: list[tuple[int, dict[str, str]] | None] = []
        self.requests: list[ReceivedRequest] = []
        self._closed = Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.requests.append(_verify_request(self.path, dict(self.headers.items()), body))
                before_response()
                answer = endpoint.responses.pop(0) if endpoint.responses else (200, {})
                if answer is None:
                    endpoint._closed.wait(60)
                    self.close_connection = True
                    return
                self.send_response(answer[0])
                for name, value in {**answer[1], "Content-Length": "2"}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"ok")

            def do_GET(self) -> None:
                endpoint.requests.append(ReceivedRequest(self.path, "GET", 0, None))
                self.send_error(405)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/hidden-path"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server, and end the requests without an answer."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _verify_request(path: str, headers: dict[str, str], body: bytes) -> ReceivedRequest:
    message = json.loads(body)
    names = {name.lower(): value for name, value in headers.items()}
    assert names["content-type"] == "application/json"
    if not {"type", "timestamp", "data"} <= message.keys():
        # A form without a signature.
        assert "webhook-signature" not in names
        return ReceivedRequest(path, "", 0, message)
    assert names["webhook-signature"] == compute_signature(
        names["webhook-id"], names["webhook-timestamp"], body
    )
    return ReceivedRequest(path, names["webhook-id"], int(names["webhook-timestamp"]), message)


def compute_signature(message_id: str, timestamp: str, body: bytes) -> str:
    """The signature of a message, computed as a receiver does."""
    key = base64.b64decode(SECRET.partition("_")[2])
    signed = b".".join([message_id.encode(), timestamp.encode(), body])
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"
