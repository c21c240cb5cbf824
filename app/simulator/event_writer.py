"""Envelopes as Truto sends them, one time after the other."""

import json
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import Any

from app.simulator.ids import make_id


class EventClock:
    """Event times that never repeat: each at least a millisecond after the last."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._last: datetime | None = None

    def next_time(self) -> str:
        """Return the time of the next event, ISO 8601 in milliseconds."""
        with self._lock:
            now = self._now()
            if self._last is not None:
                now = max(now, self._last + timedelta(milliseconds=1))
            self._last = _truncate_to_milliseconds(now)
            return format_time(self._last)

    def now(self) -> datetime:
        """Return the time in milliseconds, as Truto tells it; it may repeat."""
        return _truncate_to_milliseconds(self._now())


def format_time(time: datetime) -> str:
    """Write a UTC time as Truto does: ISO 8601 in milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"


def _truncate_to_milliseconds(time: datetime) -> datetime:
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


class EventWriter:
    """Writes events to one webhook. chance: makes their ids, the same for the same seed."""

    def __init__(self, rng: Random, clock: EventClock, *, environment_id: str, webhook_id: str) -> None:
        self._rng = rng
        self._clock = clock
        self._environment_id = environment_id
        self._webhook_id = webhook_id

    def write_run_event(self, action: str, payload: Mapping[str, Any]) -> tuple[bytes, str]:
        """Return the body of a run's event, and its created_at."""
        return self._write_event(f"sync_job_run:{action}", payload)

    def write_test_event(self) -> bytes:
        """Return the body of the event that Truto tests a webhook with."""
        return self._write_event("test", {"foo": "bar"})[0]

    def _write_event(self, event: str, payload: Mapping[str, Any]) -> tuple[bytes, str]:
        created_at = self._clock.next_time()
        envelope = {
            "id": make_id(self._rng),
            "event": event,
            "payload": payload,
            "environment_id": self._environment_id,
            "webhook_id": self._webhook_id,
            "created_at": created_at,
        }
        return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode(), created_at
