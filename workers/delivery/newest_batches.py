"""The time of the newest batch of each sync, written at most every ten seconds."""

import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

from app.database.engine import Database
from app.errors import StoreUnavailable
from app.store.models import Delivery, DeliveryResult
from app.store.syncs import Syncs

_INTERVAL_S = 10.0


class NewestBatches:
    """Stores the time at which the newest batch of a run was received, for the run's sync.

    A batch within ten seconds of the previous write of its run is skipped: many deliveries of one sync must
    not queue for its row.
    """

    def __init__(self, database: Database) -> None:
        self._syncs = Syncs(database)
        self._written_s: dict[str, float] = {}

    def record_results(self, results: Iterable[tuple[Delivery, DeliveryResult]]) -> None:
        """Store the times of saved results with records.

        If the database is unavailable, a later batch of the sync stores its own time.
        """
        now_s = time.monotonic()
        self._written_s = {
            run_id: written_s
            for run_id, written_s in self._written_s.items()
            if now_s - written_s < _INTERVAL_S
        }
        newest: dict[str, datetime] = {}
        for delivery, result in results:
            change = result.state_change
            run_id = change.attribution.run if change.attribution else delivery.envelope.sync_job_run_id
            if change.records and run_id and run_id not in self._written_s:
                newest[run_id] = max(delivery.received_at, newest.get(run_id, delivery.received_at))
        if newest:
            with suppress(StoreUnavailable):
                self._syncs.record_batches(newest)
                # Last: after a failure, the next batch is written at once.
                self._written_s |= dict.fromkeys(newest, now_s)
