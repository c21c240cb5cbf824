"""Counter of the responses of this process, written to the store in the background."""

import threading
import time
from collections import Counter

import gevent

from app.clock import utc_now
from app.errors import StoreUnavailable
from app.logs import FaultLog
from app.store.response_counts import ResponseCounts
from app.web.failover_inbox import COMMIT_TIMEOUT_S, as_unavailable

_INTERVAL_S = 2.0


class ResponseCounter:
    """Counts responses in memory; a thread (a greenlet under gevent) adds them to the store.

    totals: the numbers since the start of the process, by (status, cause). A killed process loses the counts
    of a few seconds; while the database is unavailable, they wait in memory.
    """

    def __init__(self, counts: ResponseCounts) -> None:
        self.totals: Counter[tuple[str, str]] = Counter()
        self._counts = counts
        self._written: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._fault = FaultLog("responses.uncounted", "responses.counted")

    def start(self) -> None:
        """Start the thread; call this in the process that serves, after the fork."""
        threading.Thread(target=self._run, name="response counter", daemon=True).start()

    def count(self, status: str, cause: str) -> None:
        """Count one response."""
        self.totals[status, cause] += 1

    def write(self) -> None:
        """Add the responses since the last call to the store; raises StoreUnavailable."""
        with self._lock:
            totals = self.totals.copy()
            new = totals - self._written
            if new:
                away = StoreUnavailable(f"the database did not answer within {COMMIT_TIMEOUT_S:g} s")
                with gevent.Timeout(COMMIT_TIMEOUT_S, away):
                    self._counts.add(new, now=utc_now())
                self._written = totals

    def _run(self) -> None:
        while True:
            time.sleep(_INTERVAL_S)
            try:
                self.write()
            except Exception as error:  # noqa: BLE001  # an ended thread would never write again
                self._fault.add(str(as_unavailable(error)))
            else:
                self._fault.end()
