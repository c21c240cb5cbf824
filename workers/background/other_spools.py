"""Spools without a worker: migration of an earlier release's, and a warning about others."""

import structlog
from redis import Redis

from app.config.settings import Settings
from app.database.engine import Database
from app.logs import FaultLog
from app.redis.other_receivers import find_other_receivers
from app.redis.queue import UNNAMED, DeliveryQueue
from app.redis.spool import Spool
from app.store.inbox import Inbox
from workers.background.loop import PeriodicTask

_INTERVAL_S = 5.0

log = structlog.get_logger()


class OtherSpools(PeriodicTask):
    """Empties the spool of an earlier release, deletes its queue, and reports spools that no worker empties.

    Waits while workers of an earlier release are alive: its keys are theirs. Moves the deliveries that are
    signed with one of this receiver's secrets. The rest may belong to another receiver, and waits for
    `rapidbridge migrate --adopt-spool`.
    """

    def __init__(self, database: Database, redis: Redis, settings: Settings) -> None:
        super().__init__("other_spools", interval_s=_INTERVAL_S)
        self._inbox = Inbox(database)
        self._redis = redis
        self._namespace = settings.namespace
        self._spool = Spool(redis, UNNAMED, settings)
        self._queue = DeliveryQueue(redis, UNNAMED)
        self._left = 0
        self._stranded: dict[str, FaultLog] = {}

    def run_once(self) -> None:
        """Run every step once."""
        self.run_step("spool", self._drain_spool)
        self.run_step("queue", self._delete_queue)
        self.run_step("stranded", self._report_stranded)

    def _drain_spool(self) -> None:
        # Deliveries that were left are not read again: they may be many.
        if self._spool.count() == self._left or self._queue.count_workers():
            return
        moved = self._spool.drain(self._inbox.put, sets_aside=False)
        if moved:
            log.info("spool.drained", deliveries=moved, key=self._spool.key)
        self._left = self._spool.count()

    def _delete_queue(self) -> None:
        # Its jobs hold ids only: the feeder enqueues their deliveries in the new queue.
        if self._queue.count_jobs()[0] and not self._queue.count_workers():
            self._queue.delete()

    def _report_stranded(self) -> None:
        """Log each spool that no worker empties: it may be this receiver's, under another namespace."""
        others = find_other_receivers(self._redis, self._namespace)
        stranded = {other.namespace: other for other in others if other.is_stranded}
        for namespace, other in sorted(stranded.items()):
            fault = FaultLog("spool.stranded", "spool.emptied", namespace=other.name)
            self._stranded.setdefault(namespace, fault).add(
                "no worker empties this spool",
                deliveries=other.spooled,
                hint=f"if it is this receiver's, run: {other.adopt_command}",
            )
        for namespace in self._stranded.keys() - stranded.keys():
            self._stranded.pop(namespace).end()
