"""The pruner: removes old bodies from the inbox, and the operations that ended long ago."""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from app.clock import utc_now
from app.database.engine import Database
from app.store.delete_checks import DeleteChecks
from app.store.operation_retention import delete_old_operations
from app.store.retention import PruneCounts, prune
from workers.background.loop import PeriodicTask

_INTERVAL_S = 3600.0
# One run removes at most this many: years of backlog are pruned beside the workers, with pauses.
_MAX_DELIVERIES_PER_RUN = 250_000
_CATCH_UP_INTERVAL_S = 60.0

log = structlog.get_logger()


class Pruner(PeriodicTask):
    """Prunes every hour, and a minute later while more is left.

    Any number may run, on any number of machines. retention_days: 0 keeps all bodies.
    """

    def __init__(
        self,
        database: Database,
        retention_days: int,
        *,
        max_deliveries: int = _MAX_DELIVERIES_PER_RUN,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__("pruner", interval_s=_INTERVAL_S)
        self._database = database
        self._retention = timedelta(days=retention_days)
        self._max_deliveries = max_deliveries
        self._clock = clock
        self._has_more = False

    @property
    def interval_s(self) -> float:
        """A minute while more is left to prune, otherwise an hour."""
        return _CATCH_UP_INTERVAL_S if self._has_more else _INTERVAL_S

    def run_once(self) -> None:
        """Prune old deliveries, up to one run's limit, and delete old operations and delete checks."""
        self._has_more = False
        if self._retention:
            self.run_step("prune", self._prune)
        self.run_step("operations", self._delete_operations)
        self.run_step("delete_checks", self._delete_checks)

    def _delete_checks(self) -> None:
        DeleteChecks(self._database).delete_old(now=self._clock())

    def _delete_operations(self) -> None:
        if number := delete_old_operations(self._database, now=self._clock()):
            log.info("operations.deleted", rows=number)

    def _prune(self) -> None:
        pruned = PruneCounts()
        try:
            for page in prune(self._database, before=self._clock() - self._retention, clock=self._clock):
                pruned += page
                self._has_more = pruned.deliveries >= self._max_deliveries
                if self._has_more:
                    break
        finally:
            # Pages removed before an error stay removed.
            if pruned.deliveries:
                log.info(
                    "inbox.pruned",
                    deliveries=pruned.deliveries,
                    stored_bytes=pruned.stored_bytes,
                    dead_records=pruned.dead_records,
                    record_errors=pruned.record_errors,
                )
