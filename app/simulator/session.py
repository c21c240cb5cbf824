"""Plays all runs of a plan, several at once where it says so."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

from app.simulator.events import Clock
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from app.simulator.run import Run
from app.simulator.webhooks import Webhooks
from app.truto.webhook_sender import Sender, open_client


class Stage:
    """The runs that play, those included that are started meanwhile, and the webhooks they could send to."""

    def __init__(self, make: Callable[[int], Run], pool: ThreadPoolExecutor, webhooks: Webhooks) -> None:
        self.webhooks = webhooks
        self._make = make
        self._pool = pool
        self._playing: list[Future[RunReport]] = []
        self.runs: list[Run] = []

    def start(self, *, account: str = "", told: Mapping[str, Any] | None = None) -> Run:
        """Have one more run played as soon as there is room.

        account: whose, instead of the plan's next. told: what it is to say of itself beyond the plan.
        """
        run = self._make(len(self.runs))
        run.report.integrated_account_id = account or run.report.integrated_account_id
        run.told = told or {}
        self.runs.append(run)
        self._playing.append(self._pool.submit(run.play))
        return run

    def finish(self) -> list[RunReport]:
        """Return the reports of all runs once they have ended."""
        reports = []
        # Grows while it is walked through: a run may be started while the last one plays.
        for playing in self._playing:
            reports.append(playing.result())  # noqa: PERF401
        return reports


def simulate(
    plan: Plan,
    *,
    progress: Callable[[int], None],
    beside: Callable[[Stage], AbstractContextManager[object]] | None = None,
) -> list[RunReport]:
    """Play a plan; return a report a run.

    progress: told how many records were just sent. beside: entered while the runs play, with their stage.
    """
    clock = Clock(lambda: datetime.now(UTC))
    lock = threading.Lock()
    cancelled = threading.Event()

    def advance(records: int) -> None:
        with lock:
            progress(records)

    with open_client(plan.parallel) as client, ThreadPoolExecutor(plan.parallel) as pool:

        def make(number: int) -> Run:
            return Run(plan, number, clock, Sender(plan.target, client, cancelled), advance)

        stage = Stage(make, pool, Webhooks(plan, clock))
        try:
            with beside(stage) if beside else nullcontext():
                for _ in range(plan.runs):
                    stage.start()
                return stage.finish()
        except BaseException:
            # The pool waits for its threads: without this, Ctrl-C takes effect when the last run is over.
            cancelled.set()
            raise
