"""The feeder: keeps the queue short and the workers busy, with the next deliveries of each account."""

import time
from collections.abc import Sequence

from app.clock import utc_now
from app.database.engine import Database
from app.redis.queue import IDS_PER_JOB, MAX_JOB_BYTES, MAX_JOBS, DeliveryQueue
from app.store.due_deliveries import DueDeliveries, DueLease
from app.store.models import Delivery, DeliveryPriority
from workers.background.loop import PeriodicTask

# Shorter than a job takes: no worker is idle while deliveries wait.
_INTERVAL_S = 0.05
# Retries, lost jobs and replays have no sign in Redis: they are looked for this often.
_SEARCH_INTERVAL_S = 1.0
# An enqueued delivery that no worker leased for so long is enqueued again.
_REQUEUE_AFTER_S = 60.0
# The share of replays under constant live load: one job in this time. A job takes 10 s at most.
_REPLAY_INTERVAL_S = 30.0


class Feeder(PeriodicTask):
    """Fills the queue from the inbox: live deliveries before replayed ones, and the accounts in turn.

    The queue has room for two jobs per worker, and for one of them if it is of a replay. So a delivery waits
    for a few jobs, however many deliveries of other accounts are due. While some are left in the inbox, web
    processes leave new ones there as well. If no replayed delivery was enqueued for 30 seconds, one job of
    them is added. Any number of feeders may run, on any number of machines.
    """

    def __init__(self, database: Database, queue: DeliveryQueue) -> None:
        super().__init__("feeder", interval_s=_INTERVAL_S)
        self._due = DueDeliveries(database)
        self._queue = queue
        # Deliveries that Redis refused in the last run: they are no longer due in the inbox.
        self._refused: Sequence[Delivery] = ()
        self._is_searching = True
        self._searched_at_s = self._replayed_at_s = time.monotonic()

    def run_once(self) -> None:
        """Fill the queue up to its limit."""
        self.run_step("enqueue_due", self._enqueue_due)

    def _enqueue_due(self) -> None:
        self._enqueue(self._refused)
        load, now_s = self._queue.read_load(takes_unqueued=True), time.monotonic()
        if load.has_unqueued or now_s - self._searched_at_s >= _SEARCH_INTERVAL_S:
            self._is_searching = True
        if not self._is_searching:
            return
        free_jobs = load.max_jobs - load.jobs
        # Half of the queue at once: a turn costs as much for few deliveries.
        if free_jobs >= load.workers:
            self._searched_at_s = now_s
            live = self._lease(DeliveryPriority.LIVE, free_jobs)
            self._is_searching = live.has_more
            self._queue.report_backlog(exists=live.has_more)
            if not live.deliveries:
                self._enqueue_replayed(load.workers - load.jobs)
        else:
            self._queue.report_backlog(exists=True)
        if now_s - self._replayed_at_s >= _REPLAY_INTERVAL_S and load.jobs < MAX_JOBS:
            self._enqueue_replayed(1)

    def _enqueue_replayed(self, jobs: int) -> None:
        if jobs > 0:
            replayed = self._lease(DeliveryPriority.REPLAYED, jobs)
            self._is_searching |= bool(replayed.deliveries)
            self._replayed_at_s = time.monotonic()

    def _lease(self, priority: DeliveryPriority, jobs: int) -> DueLease:
        """Lease and enqueue deliveries for so many jobs."""
        leased = self._due.lease(
            now=utc_now(),
            limit=jobs * IDS_PER_JOB,
            max_bytes=jobs * MAX_JOB_BYTES,
            requeue_after_s=_REQUEUE_AFTER_S,
            priority=priority,
        )
        self._enqueue(leased.deliveries)
        return leased

    def _enqueue(self, deliveries: Sequence[Delivery]) -> None:
        self._refused = deliveries
        self._queue.enqueue(deliveries)
        self._refused = ()
