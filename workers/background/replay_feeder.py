"""The feeder of replays: enqueues replayed deliveries while the queue is nearly empty, or their share."""

import time
from collections.abc import Sequence

from app.clock import utc_now
from app.database.engine import Database
from app.redis.queue import IDS_PER_JOB, MAX_JOBS, DeliveryQueue
from app.store.models import Delivery, DeliveryPriority
from app.store.pending import PendingDeliveries
from workers.background.loop import PeriodicTask

_INTERVAL_S = 1.0
# Shorter than a job takes: no worker is idle while replayed deliveries wait.
_BUSY_INTERVAL_S = 0.05
_COUNT_WORKERS_INTERVAL_S = 5.0
# An enqueued delivery that no worker leased for so long is enqueued again.
_REQUEUE_AFTER_S = 60.0
# The share of replays under constant live load: one job in this time. A job takes 10 s at most.
_SHARE_INTERVAL_S = 30.0
# Above the limit of live jobs, which would otherwise leave no place for the share.
_MAX_QUEUED_JOBS = 2 * MAX_JOBS


class ReplayFeeder(PeriodicTask):
    """Keeps at most one job per worker in the queue, so that a live delivery waits for a job or two.

    The web process and the sweeper enqueue live deliveries, however many jobs wait. If no replayed delivery
    was enqueued for 30 seconds, the feeder adds one job of them behind these. Any number of feeders may run,
    on any number of machines.
    """

    def __init__(self, database: Database, queue: DeliveryQueue) -> None:
        super().__init__("replay_feeder", interval_s=_INTERVAL_S)
        self._pending = PendingDeliveries(database)
        self._queue = queue
        self._max_jobs = 1
        self._count_due_s = 0.0
        self._unqueued: Sequence[Delivery] = ()
        self._is_busy = False
        self._enqueued_at_s = time.monotonic()

    @property
    def interval_s(self) -> float:
        """Short while replayed deliveries wait, otherwise a second."""
        return _BUSY_INTERVAL_S if self._is_busy else _INTERVAL_S

    def run_once(self) -> None:
        """Fill the queue up to its low-water mark, or add the share of replays if it is due."""
        self.run_step("enqueue_replayed", self._enqueue_replayed)

    def _enqueue_replayed(self) -> None:
        queued = self._queue.count_queued()
        free_jobs = self._count_max_jobs() - queued
        if free_jobs <= 0:
            is_share_due = time.monotonic() - self._enqueued_at_s >= _SHARE_INTERVAL_S
            if not is_share_due or queued >= _MAX_QUEUED_JOBS:
                return
            free_jobs = 1
        # Deliveries that Redis refused in the last run are no longer due in the inbox.
        self._unqueued = self._unqueued or self._pending.lease_due(
            now=utc_now(),
            limit=free_jobs * IDS_PER_JOB,
            requeue_after_s=_REQUEUE_AFTER_S,
            priority=DeliveryPriority.REPLAYED,
        )
        self._is_busy = bool(self._unqueued)
        self._queue.enqueue(self._unqueued)
        self._enqueued_at_s = time.monotonic()
        self._unqueued = ()

    def _count_max_jobs(self) -> int:
        if time.monotonic() >= self._count_due_s:
            self._max_jobs = max(1, self._queue.count_workers())
            self._count_due_s = time.monotonic() + _COUNT_WORKERS_INTERVAL_S
        return self._max_jobs
