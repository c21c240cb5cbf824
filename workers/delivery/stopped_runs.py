"""When the runs of one job's deliveries were stopped: what came later is late."""

from collections.abc import Sequence
from datetime import datetime

from app.store.models import Delivery, RunUpdate
from app.store.runs import Runs


class StoppedRuns:
    """The stops of the runs that one job is about."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._stopped_at: dict[str, datetime] = {}

    def load_stops(self, deliveries: Sequence[Delivery]) -> None:
        """Forget other runs' stops, and look up these; raises StoreUnavailable."""
        run_ids = {delivery.envelope.sync_job_run_id for delivery in deliveries}
        self._stopped_at = self._runs.find_stop_times(run_ids)

    def add_run(self, run: RunUpdate) -> None:
        """Learn of a stop from the job itself, before it is in the store."""
        if run.stopped_at:
            self._stopped_at.setdefault(run.sync_job_run_id, run.stopped_at)

    def is_late(self, delivery: Delivery) -> bool:
        """Whether a delivery came after its run had been stopped."""
        stopped_at = self._stopped_at.get(delivery.envelope.sync_job_run_id)
        return stopped_at is not None and delivery.received_at > stopped_at
