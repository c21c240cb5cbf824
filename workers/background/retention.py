"""The pruner: removes bodies older than RETENTION_DAYS from the inbox."""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from app.clock import utc_now
from app.database.engine import Database
from app.store.retention import PruneCounts, prune
from workers.background.loop import PeriodicTask

_INTERVAL_S = 3600.0
# One run removes at most this many: years of backlog are pruned beside the workers, with pauses.
_MAX_DELIVERIES_PER_RUN = 250_000
_CATCH_UP_INTERVAL_S = 60.0

log = structlog.get_logger()


class Pruner(PeriodicTask):
    """Prunes every hour, and a minute later while more is left.

    Any number may run, on any number of machines. retention_days: 0 keeps everything.
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

    def start(self) -> None:
        """Start the thread, unless everything is kept."""
        if self._retention:
            super().start()

    def run_once(self) -> None:
        """Prune old deliveries, up to one run's limit."""
        self._has_more = False
        self.run_step("prune", self._prune)

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
