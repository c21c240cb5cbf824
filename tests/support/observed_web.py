"""A web application that measures how long its other requests wait: `tests.support.observed_web:app`.

GET /longest-step answers with the most CPU time, and the longest time, in which no other request had a turn, in
seconds since the last such request.
"""

import importlib
import json
import time
from collections.abc import Iterable
from typing import Any

import gevent

_PATH = "/longest-step"
# gevent does not look at the sockets during a sleep of 0.
_PAUSE_S = 0.001


class TurnClock:
    """Takes a turn after each round of the process's requests, and keeps the longest time between two turns."""

    def __init__(self) -> None:
        self.longest_cpu_s = self.longest_s = 0.0
        gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            cpu_started_s, started_s = time.thread_time(), time.monotonic()
            gevent.sleep(_PAUSE_S)
            self.longest_cpu_s = max(self.longest_cpu_s, time.thread_time() - cpu_started_s)
            self.longest_s = max(self.longest_s, time.monotonic() - started_s)

    def read(self) -> dict[str, float]:
        """Return the longest times, and start over."""
        longest = {"cpu_s": self.longest_cpu_s, "elapsed_s": self.longest_s}
        self.longest_cpu_s = self.longest_s = 0.0
        return longest


_clock = TurnClock()
_application = importlib.import_module("app.web.wsgi").app


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Serve a request."""
    if environ["PATH_INFO"] != _PATH:
        answer: Iterable[bytes] = _application(environ, start_response)
        return answer
    body = json.dumps(_clock.read()).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
