"""Stop times of the runs in one job, to recognize late deliveries."""

from collections.abc import Sequence
from datetime import datetime

from app.store.models import Delivery, RunUpdate
from app.store.runs import Runs


class StoppedRuns:
    """The times at which the runs of one job's deliveries were stopped."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._stopped_at: dict[str, datetime] = {}

    def load_stops(self, deliveries: Sequence[Delivery]) -> None:
        """Read the stop times of these deliveries' runs and drop all others; raises StoreUnavailable."""
        run_ids = {delivery.envelope.sync_job_run_id for delivery in deliveries}
        self._stopped_at = self._runs.find_stop_times(run_ids)

    def add_run(self, run: RunUpdate) -> None:
        """Add a stop that this job has read but not saved yet."""
        if run.stopped_at:
            self._stopped_at.setdefault(run.sync_job_run_id, run.stopped_at)

    def is_late(self, delivery: Delivery) -> bool:
        """Whether a delivery was received after its run was stopped."""
        stopped_at = self._stopped_at.get(delivery.envelope.sync_job_run_id)
        return stopped_at is not None and delivery.received_at > stopped_at
