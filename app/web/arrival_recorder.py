"""Recorder of the stored requests of this process."""

from collections import Counter
from datetime import datetime

import gevent

from app.clock import utc_now
from app.errors import StoreUnavailable
from app.store.arrivals import Arrivals, group_ms
from app.store.webhook_events import WebhookEvents
from app.web.failover_inbox import COMMIT_TIMEOUT_S
from app.web.request_metrics import RequestMetrics

# While the database is unavailable: two hours of requests with a dozen acknowledgement times each.
_MAX_NUMBERS = 1500
# No receiver has more webhooks, and no id of one is longer.
_MAX_WEBHOOKS = 1000
_MAX_ID_CHARS = 100


class ArrivalRecorder:
    """Collects stored requests in memory until `write` adds them to the store."""

    def __init__(self, metrics: RequestMetrics, arrivals: Arrivals, webhook_events: WebhookEvents) -> None:
        self._metrics = metrics
        self._arrivals = arrivals
        self._webhook_events = webhook_events
        self._numbers: Counter[tuple[datetime, int]] = Counter()
        self._last_event_at: dict[str, datetime] = {}

    def record(self, webhook_id: str, received_at: datetime, *, duration_s: float, body_bytes: int) -> None:
        """Record a stored request. webhook_id: of its verified body; "" if it names none."""
        self._metrics.record_stored(duration_s, body_bytes)
        key = received_at.replace(second=0, microsecond=0), group_ms(duration_s)
        if key in self._numbers or len(self._numbers) < _MAX_NUMBERS:
            self._numbers[key] += 1
        if webhook_id in self._last_event_at or (
            0 < len(webhook_id) <= _MAX_ID_CHARS
            and webhook_id.isascii()
            and webhook_id.isprintable()
            and len(self._last_event_at) < _MAX_WEBHOOKS
        ):
            self._last_event_at[webhook_id] = received_at

    def write(self) -> None:
        """Add the requests since the last call to the store; raises StoreUnavailable."""
        numbers, self._numbers = self._numbers, Counter()
        events, self._last_event_at = self._last_event_at, {}
        try:
            away = StoreUnavailable(f"the database did not answer within {COMMIT_TIMEOUT_S:g} s")
            with gevent.Timeout(COMMIT_TIMEOUT_S, away):
                if numbers:
                    self._arrivals.add(numbers, now=utc_now())
                    numbers = Counter()
                if events:
                    self._webhook_events.record(events)
        except Exception:
            self._numbers.update(numbers)
            self._last_event_at = events | self._last_event_at
            raise
