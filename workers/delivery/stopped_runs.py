"""When the runs of one job's deliveries were stopped: what came later is late."""

from collections.abc import Sequence
from datetime import datetime

from app.store.facts import RunSeen
from app.store.models import Delivery
from app.store.runs import RunBook


class Stops:
    """The stops of the runs that one job is about."""

    def __init__(self, book: RunBook) -> None:
        self._book = book
        self._at: dict[str, datetime] = {}

    def read(self, deliveries: Sequence[Delivery]) -> None:
        """Forget other runs' stops, and look up these; raises StoreUnavailable."""
        self._at = self._book.stops({delivery.sync_job_run_id for delivery in deliveries})

    def note(self, run: RunSeen) -> None:
        """Learn of a stop from the job itself, before it is in the store."""
        if run.stopped_at:
            self._at.setdefault(run.sync_job_run_id, run.stopped_at)

    def are_before(self, delivery: Delivery) -> bool:
        """Whether a delivery came after its run had been stopped."""
        stopped_at = self._at.get(delivery.sync_job_run_id)
        return stopped_at is not None and delivery.received_at > stopped_at
