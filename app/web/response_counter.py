"""Counter of the responses of this process."""

import threading
from collections import Counter

import gevent

from app.clock import utc_now
from app.errors import StoreUnavailable
from app.store.response_counts import ResponseCounts
from app.web.failover_inbox import COMMIT_TIMEOUT_S
from app.web.request_metrics import RequestMetrics


class ResponseCounter:
    """Counts responses in memory and for the metrics; `write` adds them to the store.

    totals: the numbers since the start of the process, by (status, cause).
    """

    def __init__(self, metrics: RequestMetrics, counts: ResponseCounts) -> None:
        self._metrics = metrics
        self.totals: Counter[tuple[str, str]] = Counter()
        self._counts = counts
        self._written: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def count(self, status: str, cause: str) -> None:
        """Count one response."""
        self.totals[status, cause] += 1
        self._metrics.count_response(status, cause)

    def write(self) -> None:
        """Add the responses since the last call to the store; raises StoreUnavailable.

        If the store commits them and its reply is lost, the next call adds them again.
        """
        with self._lock:
            totals = self.totals.copy()
            new = totals - self._written
            if new:
                away = StoreUnavailable(f"the database did not answer within {COMMIT_TIMEOUT_S:g} s")
                with gevent.Timeout(COMMIT_TIMEOUT_S, away):
                    self._counts.add(new, now=utc_now())
                self._written = totals
