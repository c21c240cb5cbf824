"""Brings in what was spooled, and wakes workers for what is due: lost jobs, retries, and backlogs."""

import threading
from datetime import UTC, datetime

import structlog

from app.database.engine import Database
from app.redis.queue import IDS_PER_JOB, DeliveryQueue
from app.redis.spool import Spool
from app.store.inbox import Inbox
from app.store.models import Delivery
from app.store.pending import PendingDeliveries
from workers.background.loop import PeriodicTask

_INTERVAL_S = 1.0
# How long a woken delivery may wait in Redis before it is taken for lost.
_REQUEUE_AFTER_S = 60.0
_ENQUEUE_LIMIT = 16 * IDS_PER_JOB

log = structlog.get_logger()


class Sweeper:
    """Feeds the inbox from the spool and the queue from the inbox, the latter only as far as there is room.

    Any number may run, on any number of machines.
    """

    def __init__(self, store: Database, queue: DeliveryQueue, spool: Spool) -> None:
        self._inbox = Inbox(store)
        self._pending = PendingDeliveries(store)
        self._queue = queue
        self._spool = spool
        self._gone_workers: list[str] = []
        self._unqueued: list[Delivery] = []
        self._task = PeriodicTask("sweep.failed", then="tried again every second")

    def start(self) -> None:
        """Sweep every second in a thread of its own: a store that stalls must not stall who started this."""
        threading.Thread(target=self._run, name="sweeper", daemon=True).start()

    def release_worker(self, worker: str) -> None:
        """Have what a worker held that is gone taken up by others soon. Never blocks, never fails."""
        self._gone_workers.append(worker)

    def run_once(self) -> None:
        """Do everything there is to do now. A fault is logged once, and passes."""
        self._task.run_step("drain", self._drain_spool)
        self._task.run_step("release", self._release_workers)
        self._task.run_step("recall", self._make_all_due)
        self._task.run_step("wake", self._enqueue_due)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self.run_once()
            pause.wait(_INTERVAL_S)

    def _drain_spool(self) -> None:
        if moved := self._spool.drain(self._inbox.put):
            log.info("spool.drained", deliveries=moved)

    def _release_workers(self) -> None:
        while self._gone_workers:
            number = self._pending.release_worker(self._gone_workers[0], now=datetime.now(UTC))
            log.warning("worker.gone", holder=self._gone_workers.pop(0), released=number)

    def _make_all_due(self) -> None:
        if self._queue.has_marker():
            return
        number = self._pending.make_all_due(now=datetime.now(UTC))
        # After it: whoever dies in between leaves it to be done again.
        self._queue.set_marker()
        if number:
            log.warning("queue.wiped", recalled=number)

    def _enqueue_due(self) -> None:
        while self._queue.has_capacity():
            # What Redis did not take when it was woken is not due in the inbox any more.
            self._unqueued = self._unqueued or self._pending.lease_due(
                now=datetime.now(UTC), limit=_ENQUEUE_LIMIT, requeue_after_s=_REQUEUE_AFTER_S
            )
            number = len(self._unqueued)
            self._queue.enqueue(self._unqueued)
            self._unqueued = []
            if number < _ENQUEUE_LIMIT:
                break
