"""The stand-in's side of Truto's API: runs are looked at, listed, started and stopped while they play."""

import json
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

from app.simulator.run import Run
from app.simulator.simulate import Stage

_RUNS = "/sync-job-run"
_RUN = re.compile(_RUNS + "/([^/]+)")
_FILTERS = ("status", "sync_job_id", "integrated_account_id")

_Answer = tuple[int, Mapping[str, Any]]


class SimulatedApi:
    """Answers on a port of this machine while it is entered; `token` must be shown with each request.

    port: 0 takes a free one. faults: HTTP statuses that the next requests get instead of an answer; 0 for one
    that gets its answer.
    """

    def __init__(self, stage: Stage, token: str, *, port: int = 0, faults: Sequence[int] = ()) -> None:
        members = {"stage": stage, "token": token, "faults": deque(faults)}
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), members))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="api", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    stage: ClassVar[Stage]
    token: ClassVar[str]
    faults: ClassVar[deque[int]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # as http.server calls them
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing: there may be a progress bar on the terminal."""

    def _answer(self) -> None:
        # Read in any case: what is left unread would be taken for the next request.
        told = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            self._send(401, {"message": "Unauthorized"})
        elif self.faults and (status := self.faults.popleft()):
            self._send(status, {"message": "a fault on demand"})
        else:
            self._send(*self._act(told))

    def _act(self, told: bytes) -> _Answer:
        url = urlsplit(self.path)
        if url.path == _RUNS and self.command == "GET":
            return self._list({name: values[-1] for name, values in parse_qs(url.query).items()})
        if url.path == _RUNS and self.command == "POST":
            return self._start(told)
        named = _RUN.fullmatch(url.path)
        run = self._find(unquote(named[1])) if named and self.command in ("GET", "DELETE") else None
        if run is None:
            return 404, {"message": "Sync job run not found"}
        if self.command == "DELETE":
            run.stop()
        return 200, run.describe()

    def _find(self, run_id: str) -> Run | None:
        return next((run for run in self.stage.runs if run.report.sync_job_run_id == run_id), None)

    def _list(self, asked: Mapping[str, str]) -> _Answer:
        limit, start = int(asked.get("limit", "100")), int(asked.get("next_cursor", "0"))
        wanted = {name: asked[name] for name in _FILTERS if name in asked}
        told = [run.describe() for run in self.stage.runs]
        found = [run for run in told if all(run[name] == value for name, value in wanted.items())]
        cursor = str(start + limit) if start + limit < len(found) else None
        return 200, {"results": found[start : start + limit], "next_cursor": cursor}

    def _start(self, told: bytes) -> _Answer:
        try:
            asked = json.loads(told)
            job, account = asked["sync_job_id"], asked["integrated_account_id"]
        except (ValueError, TypeError, KeyError):
            return 422, {"message": "sync_job_id and integrated_account_id are required"}
        if job not in {run.report.sync_job_id for run in self.stage.runs}:
            return 404, {"message": "Sync job not found"}
        return 200, self.stage.start(account=account).describe()

    def _send(self, status: int, answer: Mapping[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            # Truto asks for 10.
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)
