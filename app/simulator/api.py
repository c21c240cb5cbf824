"""HTTP server of the simulated API, on a port of this machine."""

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from app.simulator.api_endpoints import ApiResponse, answer_request, read_request
from app.simulator.session import SimulationSession

_SHUTDOWN_POLL_INTERVAL_S = 0.02
# Truto itself requests 10 s.
_RETRY_AFTER_S = 1


class SimulatedApi:
    """Answers like Truto's API about the runs of a session; a context manager, which runs the server.

    token: required in every request. port: 0 for any free one. faults: HTTP statuses that the next requests
    get instead of an answer, 0 for the normal answer. requests: method and path of every request so far.
    request_hooks: functions to call while the next requests wait for their answers.
    """

    def __init__(
        self, session: SimulationSession, token: str, *, port: int = 0, faults: Sequence[int] = ()
    ) -> None:
        self.faults = deque(faults)
        self.requests: list[tuple[str, str]] = []
        self.request_hooks: deque[Callable[[], None]] = deque()
        self._session = session
        self._token = token
        self._server = _ApiServer(port, self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, args=(_SHUTDOWN_POLL_INTERVAL_S,), name="api", daemon=True
        ).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def respond(self, method: str, target: str, authorization: str, body: bytes) -> ApiResponse:
        """Record a request and return its response. target: the path and query of the request line."""
        self.requests.append((method, target.partition("?")[0]))
        if self.request_hooks:
            self.request_hooks.popleft()()
        if authorization != f"Bearer {self._token}":
            return 401, {"message": "Unauthorized"}
        if self.faults and (status := self.faults.popleft()):
            return status, {"message": "an injected fault"}
        return answer_request(self._session, read_request(method, target, body))


class _ApiServer(ThreadingHTTPServer):
    def __init__(self, port: int, api: SimulatedApi) -> None:
        super().__init__(("127.0.0.1", port), _ApiHandler)
        self.api = api


class _ApiHandler(BaseHTTPRequestHandler):
    server: _ApiServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # http.server calls these names
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def do_PATCH(self) -> None:
        self._respond()

    def do_DELETE(self) -> None:
        self._respond()

    def log_message(self, *_: object) -> None:
        """Log nothing, because a progress bar may be on the terminal."""

    def _respond(self) -> None:
        # Always read the body: on a kept connection, an unread rest would be parsed as the next request.
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        authorization = self.headers.get("Authorization", "")
        self._send_json(*self.server.api.respond(self.command, self.path, authorization, body))

    def _send_json(self, status: int, answer: Mapping[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", str(_RETRY_AFTER_S))
        self.end_headers()
        self.wfile.write(body)
