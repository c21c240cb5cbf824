"""The stand-in's side of Truto's API, over HTTP while the runs play."""

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self

from app.simulator.api_endpoints import ApiRequest, ApiResponse, read_request
from app.simulator.api_log import handle_log_request
from app.simulator.api_runs import handle_run_request
from app.simulator.api_webhooks import handle_webhook_request
from app.simulator.session import SimulationSession

_REQUEST_HANDLERS: Mapping[str, Callable[[SimulationSession, ApiRequest], ApiResponse]] = {
    "sync-job-run": handle_run_request,
    "log": handle_log_request,
    "webhook": handle_webhook_request,
}


class SimulatedApi:
    """Answers on a port of this machine while it is entered; `token` must be shown with each request.

    port: 0 takes a free one. faults: HTTP statuses that the next requests get instead of an answer; 0 for one
    that gets its answer; more may be added. asked: the requests so far, as method and
    path. meanwhile: what is to happen while the next requests wait for their answers.
    """

    def __init__(
        self, session: SimulationSession, token: str, *, port: int = 0, faults: Sequence[int] = ()
    ) -> None:
        self.faults = deque(faults)
        self.requests: list[tuple[str, str]] = []
        self.request_hooks: deque[Callable[[], None]] = deque()
        members = {"stage": session, "token": token, "faults": self.faults, "asked": self.requests}
        members["meanwhile"] = self.request_hooks
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_ApiHandler,), members))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        # Looks this often whether it is to shut down.
        often = {"poll_interval": 0.02}
        threading.Thread(target=self._server.serve_forever, kwargs=often, name="api", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _ApiHandler(BaseHTTPRequestHandler):
    stage: ClassVar[SimulationSession]
    token: ClassVar[str]
    faults: ClassVar[deque[int]]
    asked: ClassVar[list[tuple[str, str]]]
    meanwhile: ClassVar[deque[Callable[[], None]]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # as http.server calls them
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def do_PATCH(self) -> None:
        self._respond()

    def do_DELETE(self) -> None:
        self._respond()

    def log_message(self, *_: object) -> None:
        """Say nothing: there may be a progress bar on the terminal."""

    def _respond(self) -> None:
        # Read in any case: what is left unread would be taken for the next request.
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.asked.append((self.command, self.path.partition("?")[0]))
        if self.meanwhile:
            self.meanwhile.popleft()()
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            self._send_json(401, {"message": "Unauthorized"})
        elif self.faults and (status := self.faults.popleft()):
            self._send_json(status, {"message": "a fault on demand"})
        else:
            request = read_request(self.command, self.path, body)
            handler = _REQUEST_HANDLERS.get(request.kind)
            self._send_json(*(handler(self.stage, request) if handler else (404, {"message": "Not found"})))

    def _send_json(self, status: int, answer: Mapping[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            # Truto asks for 10.
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)
