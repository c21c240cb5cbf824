"""The feeder of replays: enqueues replayed deliveries while the queue is nearly empty."""

import time
from collections.abc import Sequence

from app.clock import utc_now
from app.database.engine import Database
from app.redis.queue import IDS_PER_JOB, DeliveryQueue
from app.store.models import Delivery, DeliveryPriority
from app.store.pending import PendingDeliveries
from workers.background.loop import PeriodicTask

_INTERVAL_S = 1.0
# Shorter than a job takes: no worker is idle while replayed deliveries wait.
_BUSY_INTERVAL_S = 0.05
_COUNT_WORKERS_INTERVAL_S = 5.0
# An enqueued delivery that no worker leased for so long is enqueued again.
_REQUEUE_AFTER_S = 60.0


class ReplayFeeder(PeriodicTask):
    """Keeps at most one job per worker in the queue, so that a live delivery waits for a job or two.

    The web process and the sweeper enqueue live deliveries, however many jobs wait. Any number of feeders may
    run, on any number of machines.
    """

    def __init__(self, database: Database, queue: DeliveryQueue) -> None:
        super().__init__("replay_feeder", interval_s=_INTERVAL_S)
        self._pending = PendingDeliveries(database)
        self._queue = queue
        self._max_jobs = 1
        self._count_due_s = 0.0
        self._unqueued: Sequence[Delivery] = ()
        self._is_busy = False

    @property
    def interval_s(self) -> float:
        """Short while replayed deliveries wait, otherwise a second."""
        return _BUSY_INTERVAL_S if self._is_busy else _INTERVAL_S

    def run_once(self) -> None:
        """Fill the queue up to its low-water mark."""
        self.run_step("enqueue_replayed", self._enqueue_replayed)

    def _enqueue_replayed(self) -> None:
        free_jobs = self._count_max_jobs() - self._queue.count_queued()
        if free_jobs <= 0:
            return
        # Deliveries that Redis refused in the last run are no longer due in the inbox.
        self._unqueued = self._unqueued or self._pending.lease_due(
            now=utc_now(),
            limit=free_jobs * IDS_PER_JOB,
            requeue_after_s=_REQUEUE_AFTER_S,
            priority=DeliveryPriority.REPLAYED,
        )
        self._is_busy = bool(self._unqueued)
        self._queue.enqueue(self._unqueued)
        self._unqueued = ()

    def _count_max_jobs(self) -> int:
        if time.monotonic() >= self._count_due_s:
            self._max_jobs = max(1, self._queue.count_workers())
            self._count_due_s = time.monotonic() + _COUNT_WORKERS_INTERVAL_S
        return self._max_jobs
