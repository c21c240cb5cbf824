"""Plays all runs of a plan, several at once where it says so."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from app.simulator.events import Clock
from app.simulator.plan import Plan
from app.simulator.run import Run, RunReport
from app.simulator.sender import Sender, open_client


def simulate(plan: Plan, *, progress: Callable[[int], None]) -> list[RunReport]:
    """Play a plan; return a report a run. progress: told how many records were just sent."""
    clock = Clock(lambda: datetime.now(UTC))
    lock = threading.Lock()
    cancelled = threading.Event()

    def advance(records: int) -> None:
        with lock:
            progress(records)

    with open_client(plan) as client, ThreadPoolExecutor(plan.parallel) as pool:
        runs = [
            Run(plan, number, clock, Sender(plan, client, cancelled), advance) for number in range(plan.runs)
        ]
        try:
            return list(pool.map(Run.play, runs))
        except BaseException:
            # The pool waits for its threads: without this, Ctrl-C takes effect when the last run is over.
            cancelled.set()
            raise
