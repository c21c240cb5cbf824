"""Brings in what was spooled, and wakes workers for what is due: lost jobs, retries, and backlogs."""

import threading
from datetime import UTC, datetime

import structlog

from app.database.engine import Store
from app.redis.queue import IDS_PER_JOB, DeliveryQueue
from app.redis.spool import Spool
from app.store.inbox import Inbox
from app.store.models import Delivery
from app.store.pending import Worklist
from workers.background.loop import Faults

_EVERY_S = 1.0
# How long a woken delivery may wait in Redis before it is taken for lost.
_AGAIN_AFTER_S = 60.0
_MOST_PER_WAKE = 16 * IDS_PER_JOB

log = structlog.get_logger()


class Sweeper:
    """Feeds the inbox from the spool and the queue from the inbox, the latter only as far as there is room.

    Any number may run, on any number of machines.
    """

    def __init__(self, store: Store, queue: DeliveryQueue, spool: Spool) -> None:
        self._inbox = Inbox(store)
        self._worklist = Worklist(store)
        self._queue = queue
        self._spool = spool
        self._gone: list[str] = []
        self._unqueued: list[Delivery] = []
        self._faults = Faults("sweep.failed", then="tried again every second")

    def start(self) -> None:
        """Sweep every second in a thread of its own: a store that stalls must not stall who started this."""
        threading.Thread(target=self._run, name="sweeper", daemon=True).start()

    def release(self, holder: str) -> None:
        """Have what a worker held that is gone taken up by others soon. Never blocks, never fails."""
        self._gone.append(holder)

    def sweep(self) -> None:
        """Do everything there is to do now. A fault is logged once, and passes."""
        self._faults.attempt("drain", self._drain)
        self._faults.attempt("release", self._release)
        self._faults.attempt("recall", self._recall)
        self._faults.attempt("wake", self._wake)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self.sweep()
            pause.wait(_EVERY_S)

    def _drain(self) -> None:
        if moved := self._spool.drain(self._inbox.put):
            log.info("spool.drained", deliveries=moved)

    def _release(self) -> None:
        while self._gone:
            number = self._worklist.release(self._gone[0], now=datetime.now(UTC))
            log.warning("worker.gone", holder=self._gone.pop(0), released=number)

    def _recall(self) -> None:
        if self._queue.remembers():
            return
        number = self._worklist.recall(now=datetime.now(UTC))
        # After it: whoever dies in between leaves it to be done again.
        self._queue.remember()
        if number:
            log.warning("queue.wiped", recalled=number)

    def _wake(self) -> None:
        while self._queue.has_room():
            # What Redis did not take when it was woken is not due in the inbox any more.
            self._unqueued = self._unqueued or self._worklist.wake(
                now=datetime.now(UTC), most=_MOST_PER_WAKE, again_after_s=_AGAIN_AFTER_S
            )
            number = len(self._unqueued)
            self._queue.enqueue(self._unqueued)
            self._unqueued = []
            if number < _MOST_PER_WAKE:
                break
