"""Wakes workers for what is stored, unsettled and due: lost jobs, retries, and backlogs."""

from datetime import UTC, datetime

import structlog

from app.errors import Retriable
from app.queue import IDS_PER_JOB, DeliveryQueue
from app.store.inbox import Inbox

# How long a woken delivery may wait in Redis before it is taken for lost.
_AGAIN_AFTER_S = 60.0
_MOST_PER_WAKE = 32 * IDS_PER_JOB

log = structlog.get_logger()


class Sweeper:
    """Feeds the queue from the inbox, never beyond what the queue has room for."""

    def __init__(self, inbox: Inbox, queue: DeliveryQueue) -> None:
        self._inbox = inbox
        self._queue = queue
        self._fault = ""

    def sweep(self) -> None:
        """Enqueue everything that is due, as far as there is room. Faults are logged once and pass."""
        try:
            while self._queue.has_room():
                due = self._inbox.wake(
                    now=datetime.now(UTC), most=_MOST_PER_WAKE, again_after_s=_AGAIN_AFTER_S
                )
                self._queue.enqueue(due)
                if len(due) < _MOST_PER_WAKE:
                    break
        except Retriable as error:
            if str(error) != self._fault:
                log.warning("sweep.failed", error=str(error), then="tried again every second")
            self._fault = str(error)
        else:
            self._fault = ""
