"""Loads that a test runs itself, without a planner."""

from datetime import UTC, datetime, timedelta

from app.config.routes import Routes
from app.database.engine import Database
from app.sinks.registry import SinkRegistry
from app.store.loads import Loads
from workers.delivery.load_runner import LoadRunner
from workers.delivery.work_recorder import WorkRecorder


def run_loads(store: Database, routes: Routes, sinks: SinkRegistry, *, sink: str = "lake") -> int:
    """Plan and run loads until no delivery waits for the sink; return their number."""
    runner, number = LoadRunner(store, routes, sinks, WorkRecorder(store), worker="loader"), 0
    while load := Loads(store).plan(sink, max_bytes=2**26, max_age=timedelta(), now=datetime.now(UTC)):
        runner.run(load.id)
        number += 1
    return number
