"""Enqueuing of committed deliveries, in a background thread of the web process."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from uuid import UUID

from app.errors import QueueUnavailable
from app.logs import FaultLog
from app.redis.queue import DeliveryQueue

# Ids kept while Redis is slow. The sweeper enqueues the deliveries of dropped ids later.
_MAX_WAITING_IDS = 10_000
_ERROR_PAUSE_S = 1.0
# Every job costs milliseconds, so ids in quick succession share one. The first id never waits.
_GATHER_S = 0.02


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery that no worker has tried yet."""

    id: UUID
    attempts: int = 0
    lost_attempts: int = 0


class Enqueuer:
    """Gathers ids in a thread (a greenlet under gevent) and enqueues several per job under load.

    The sender never waits for Redis. If an id is lost, the sweeper enqueues its delivery later.
    """

    def __init__(self, queue: DeliveryQueue) -> None:
        self._queue = queue
        self._ids: deque[UUID] = deque(maxlen=_MAX_WAITING_IDS)
        self._has_ids = threading.Event()
        self._fault = FaultLog("queue.unavailable", "queue.recovered")

    def start(self) -> None:
        """Start the thread; call this in the process that serves, after the fork."""
        threading.Thread(target=self._run, name="enqueuer", daemon=True).start()

    def enqueue(self, delivery_id: UUID) -> None:
        """Enqueue a delivery soon. Never blocks, never raises."""
        self._ids.append(delivery_id)
        self._has_ids.set()

    def _run(self) -> None:
        while True:
            self._has_ids.wait()
            self._has_ids.clear()
            ids = [self._ids.popleft() for _ in range(len(self._ids))]
            try:
                # If the queue is full, the sweeper enqueues these deliveries later.
                if self._queue.has_capacity():
                    self._queue.enqueue([NewDelivery(id_) for id_ in ids])
            except QueueUnavailable as error:
                self._fault.add(str(error), then="the sweeper enqueues later")
                # Without a pause, every delivery would try to connect to the unavailable Redis.
                time.sleep(_ERROR_PAUSE_S)
            else:
                self._fault.end()
                time.sleep(_GATHER_S)
