"""Enqueuing of committed deliveries, in a background thread of the web process."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from app.errors import QueueUnavailable
from app.logs import FaultLog
from app.redis.queue import MAX_JOBS, DeliveryQueue

# Deliveries kept while Redis is slow. The feeder enqueues dropped ones later.
_MAX_WAITING_IDS = 10_000
_ERROR_PAUSE_S = 1.0
# Every job costs milliseconds, so ids in quick succession share one. The first id never waits.
_GATHER_S = 0.02
# If each worker has a job waiting, ids would wait as well. The feeder looks for new ones no more often.
_BUSY_GATHER_S = 0.05
_RECHECK_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery that no worker has tried yet. is_due: it was stored for the feeder, as due at once."""

    id: UUID
    body_bytes: int = 0
    attempts: int = 0
    lost_attempts: int = 0
    is_due: bool = False


class Enqueuer:
    """Gathers deliveries in a thread (a greenlet under gevent) and enqueues several per job under load.

    While the queue is full, or others wait in the inbox for their turn, the feeder enqueues them instead. The
    sender never waits for Redis. If an id is lost, the feeder enqueues its delivery later.
    """

    def __init__(self, queue: DeliveryQueue) -> None:
        self._queue = queue
        self._waiting: deque[NewDelivery] = deque(maxlen=_MAX_WAITING_IDS)
        self._has_waiting = threading.Event()
        self._fault = FaultLog("queue.unavailable", "queue.recovered")
        self.must_leave = False
        self._is_full = self._is_busy = False

    def start(self) -> None:
        """Start the thread; call this in the process that serves, after the fork."""
        threading.Thread(target=self._run, name="enqueuer", daemon=True).start()

    def enqueue(self, delivery: NewDelivery) -> None:
        """Enqueue a delivery soon, or have the feeder do it. Never blocks, never raises."""
        self._waiting.append(delivery)
        self._has_waiting.set()

    def _run(self) -> None:
        while True:
            # The queue may have room again without a new delivery.
            self._has_waiting.wait(_RECHECK_INTERVAL_S if self.must_leave else None)
            self._has_waiting.clear()
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                self._enqueue(waiting)
            except QueueUnavailable as error:
                self._fault.add(str(error), then="the feeder enqueues later")
                # Without a pause, every delivery would try to connect to the unavailable Redis.
                time.sleep(_ERROR_PAUSE_S)
            else:
                self._fault.end()
                time.sleep(_BUSY_GATHER_S if self._is_busy else _GATHER_S)

    def _enqueue(self, waiting: Sequence[NewDelivery]) -> None:
        if any(delivery.is_due for delivery in waiting):
            self._queue.report_unqueued()
        # Those that were stored for this process go on to the queue, unless nothing drains it. The load is
        # read afterwards: workers should not wait for that.
        if not self._is_full:
            self._queue.enqueue([delivery for delivery in waiting if not delivery.is_due])
        load = self._queue.read_load()
        self._is_busy = load.has_backlog or load.jobs >= load.workers
        self.must_leave = load.has_backlog or load.jobs >= load.max_jobs
        self._is_full = load.jobs >= MAX_JOBS
