"""Check before a replay that the running workers have this process's routes and sinks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.config.delivery_config import DeliveryConfig
from app.database.engine import Database
from app.errors import OperationRefused
from app.plural import format_count
from app.store.worker_registry import WorkerRecord, WorkerRegistry


@dataclass(frozen=True, slots=True)
class OutdatedWorker:
    """A worker with another configuration. differences: phrases such as "does not know sink lake"."""

    name: str
    started_at: datetime
    differences: Sequence[str]


def find_outdated_workers(workers: Sequence[WorkerRecord], expected: DeliveryConfig) -> list[OutdatedWorker]:
    """Return the workers whose release, routes or sinks are others than expected."""
    outdated = [
        OutdatedWorker(worker.name, worker.started_at, expected.find_differences(worker.config))
        for worker in workers
    ]
    return [worker for worker in outdated if worker.differences]


def require_current_workers(database: Database, expected: DeliveryConfig, *, now: datetime) -> int:
    """Return the number of running workers; raises OperationRefused if one has another configuration.

    Raises StoreUnavailable.
    """
    live = WorkerRegistry(database).list_live(now=now)
    if outdated := find_outdated_workers(live, expected):
        raise OperationRefused(describe_refusal(outdated, live=len(live)))
    return len(live)


def describe_refusal(outdated: Sequence[OutdatedWorker], *, live: int) -> str:
    """Return why a replay cannot start, with a line for each outdated worker and the next step."""
    verb = "has" if len(outdated) == 1 else "have"
    lines = [
        f"{len(outdated)} of {format_count(live, 'running worker')} {verb} another configuration than the "
        "process that starts the replay:"
    ]
    lines += [
        f"  {worker.name}, started {worker.started_at:%Y-%m-%d %H:%M} UTC: {', '.join(worker.differences)}"
        for worker in outdated
    ]
    lines += [
        "Workers keep the routes that they started with. Nothing was requeued. Restart all workers (stop and "
        "start `rapidbridge worker` with these settings), then start the replay again.",
        "A worker that was killed counts for up to a minute.",
    ]
    return "\n".join(lines)
