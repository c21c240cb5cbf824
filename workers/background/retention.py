"""Prunes the inbox in the background, as RETENTION_DAYS says."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from app.database.engine import Database
from app.store.retention import PruneCounts, prune
from workers.background.loop import PeriodicTask

_INTERVAL_S = 3600.0
# One round's share. Whoever has years to catch up with does so beside the workers, with pauses.
_MAX_DELIVERIES_PER_ROUND = 250_000
_CATCH_UP_INTERVAL_S = 60.0

log = structlog.get_logger()


def _now() -> datetime:
    return datetime.now(UTC)


class Pruner:
    """One round an hour; the next one soon where one was not enough. Any number may run, on any machines.

    retention_days: 0 keeps everything.
    """

    def __init__(
        self,
        store: Database,
        retention_days: int,
        *,
        max_deliveries: int = _MAX_DELIVERIES_PER_ROUND,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._store = store
        self._retention = timedelta(days=retention_days)
        self._max_deliveries = max_deliveries
        self._clock = clock
        self._is_behind = False
        self._task = PeriodicTask("pruning.failed", then="tried again in an hour")

    def start(self) -> None:
        """Prune every hour in a thread of its own, which ends with the process; or never."""
        if self._retention:
            threading.Thread(target=self._run, name="pruner", daemon=True).start()

    def run_once(self) -> None:
        """Prune what is old, as much as is one round's share. A fault is logged once, and passes."""
        self._is_behind = False
        self._task.run_step("prune", self._prune)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self.run_once()
            pause.wait(_CATCH_UP_INTERVAL_S if self._is_behind else _INTERVAL_S)

    def _prune(self) -> None:
        pruned = PruneCounts()
        try:
            for page in prune(self._store, before=self._clock() - self._retention, clock=self._clock):
                pruned += page
                self._is_behind = pruned.deliveries >= self._max_deliveries
                if self._is_behind:
                    break
        finally:
            # Also where the store is away from here on: what was removed is removed.
            if pruned.deliveries:
                log.info(
                    "inbox.pruned",
                    deliveries=pruned.deliveries,
                    stored_bytes=pruned.stored_bytes,
                    dead_records=pruned.dead_records,
                    record_errors=pruned.record_errors,
                )
