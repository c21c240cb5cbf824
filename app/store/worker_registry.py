"""The registry of workers: each one's heartbeat, and the configuration it started with.

In the database, not in Redis: a command without REDIS_URL compares it too, and another receiver's workers
are not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, select

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.schema import workers

# An idle worker sends a heartbeat every 15 s, a busy one at least after each job.
_LIVE = timedelta(seconds=60)
# Longer than Redis lists a dead worker: until then it must not look like another receiver's.
_KEPT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker process. started_at: before it read its configuration.

    config, digest: `to_json` and `digest` of its `DeliveryConfig`.
    """

    name: str
    started_at: datetime
    config: str
    digest: str


class WorkerRegistry:
    """The workers of this store. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record_heartbeat(self, worker: WorkerRecord, *, now: datetime) -> None:
        """Add a worker, or renew its heartbeat; remove workers that were lost long ago."""
        statement = insert_into(self._database.dialect.name, workers).on_conflict_do_update(
            index_elements=[workers.c.name], set_={"seen_at": now}
        )
        row = {
            "name": worker.name,
            "started_at": worker.started_at,
            "seen_at": now,
            "config": worker.config,
            "digest": worker.digest,
        }
        self._database.execute(statement, row)
        # A transaction of its own: two workers that renew themselves and delete each other would deadlock.
        self._database.execute(delete(workers).where(workers.c.seen_at < now - _KEPT))

    def remove(self, worker: str) -> None:
        """Remove a worker that has ended."""
        self._database.execute(delete(workers).where(workers.c.name == worker))

    def list_names(self) -> set[str]:
        """Return the names of all workers of the last hour, dead ones included."""
        return {row.name for row in self._database.read(select(workers.c.name))}

    def list_live(self, *, now: datetime) -> Sequence[WorkerRecord]:
        """Return the live workers, the oldest first. A killed one counts for up to a minute."""
        statement = select(workers).where(is_live(now)).order_by(workers.c.started_at, workers.c.name)
        rows = self._database.read(statement)
        return [WorkerRecord(row.name, row.started_at, row.config, row.digest) for row in rows]


def is_live(now: datetime) -> ColumnElement[bool]:
    """Return the condition that a row of `workers` is a live worker's."""
    return workers.c.seen_at > now - _LIVE
