"""Plays all runs of a plan, several at once where it says so."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from app.simulator.events import Clock
from app.simulator.plan import Plan
from app.simulator.run import Run, RunReport


def simulate(plan: Plan, *, progress: Callable[[int], None]) -> list[RunReport]:
    """Play a plan; return a report a run. progress: told how many records were just sent."""
    clock = Clock(lambda: datetime.now(UTC))
    lock = threading.Lock()

    def advance(records: int) -> None:
        with lock:
            progress(records)

    runs = [Run(plan, number, clock, advance) for number in range(plan.runs)]
    with ThreadPoolExecutor(plan.parallel) as pool:
        return list(pool.map(Run.play, runs))
