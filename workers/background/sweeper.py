"""The sweeper: moves spooled deliveries to the inbox and repairs the queue."""

import structlog

from app.clock import utc_now
from app.database.engine import Database
from app.errors import NamespaceShared
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from app.store.inbox import Inbox
from app.store.loads import Loads
from app.store.pending import PendingDeliveries
from app.store.worker_registry import WorkerRegistry
from workers.background.loop import PeriodicTask

_INTERVAL_S = 1.0
# A long spool must not delay the other steps.
_DRAIN_TIMEOUT_S = 5.0

log = structlog.get_logger()


class Sweeper(PeriodicTask):
    """Fills the inbox from the spool, and makes deliveries due whose worker or job is lost.

    Any number of sweepers may run, on any number of machines.
    """

    def __init__(self, database: Database, queue: DeliveryQueue, spool: Spool) -> None:
        super().__init__("sweeper", interval_s=_INTERVAL_S)
        self._inbox = Inbox(database)
        self._pending = PendingDeliveries(database)
        self._loads = Loads(database)
        self._registry = WorkerRegistry(database)
        self._queue = queue
        self._spool = spool
        self._lost_workers: list[str] = []

    def release_worker(self, worker: str) -> None:
        """Release the deliveries of an ended worker in the next run; never blocks or fails."""
        self._lost_workers.append(worker)

    def run_once(self) -> None:
        """Run every step once."""
        self.run_step("repair_queue", self._repair_queue)
        self.run_step("drain_spool", self._drain_spool)
        self.run_step("release_workers", self._release_workers)
        self.run_step("requeue_after_wipe", self._requeue_after_wipe)

    def _repair_queue(self) -> None:
        for key in self._queue.repair():
            log.warning("queue.repaired", deleted=key)

    def _drain_spool(self) -> None:
        if not self._spool.count():
            return
        workers = self._queue.list_workers()
        # Their spool is this one, and their database is another: these deliveries may be theirs.
        if workers and workers - self._registry.list_names():
            raise NamespaceShared(
                f"workers of another database use the namespace {self._queue.namespace} in this Redis: set "
                "REDIS_NAMESPACE to a name of its own in the processes of each receiver, and restart them"
            )
        if moved := self._spool.drain(self._inbox.put, timeout_s=_DRAIN_TIMEOUT_S):
            log.info("spool.drained", deliveries=moved)

    def _release_workers(self) -> None:
        while self._lost_workers:
            worker = self._lost_workers[0]
            number = self._pending.release_worker(worker, now=utc_now())
            self._loads.release_worker(worker, now=utc_now())
            # First from Redis: a worker that only Redis knows looks like another receiver's.
            self._queue.remove_worker(worker)
            self._registry.remove(worker)
            log.warning("worker.lost", worker=self._lost_workers.pop(0), released=number)

    def _requeue_after_wipe(self) -> None:
        if self._queue.has_marker():
            return
        number = self._pending.make_all_due(now=utc_now())
        # The marker comes last: a sweeper killed before it leaves the step to be repeated.
        self._queue.set_marker()
        if number:
            log.warning("queue.wiped", requeued=number)
