"""Plays all runs of a plan, several at once where it says so."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

from app.simulator.event_writer import EventClock
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from app.simulator.run import SimulatedRun
from app.simulator.simulated_webhooks import SimulatedWebhooks
from app.truto.webhook_sender import WebhookSender, open_http_client


class SimulationSession:
    """The runs that play, those included that are started meanwhile, and the webhooks they could send to."""

    def __init__(
        self, make_run: Callable[[int], SimulatedRun], pool: ThreadPoolExecutor, webhooks: SimulatedWebhooks
    ) -> None:
        self.webhooks = webhooks
        self._make_run = make_run
        self._pool = pool
        self._futures: list[Future[RunReport]] = []
        self.runs: list[SimulatedRun] = []

    def start(self, *, account: str = "", start_options: Mapping[str, Any] | None = None) -> SimulatedRun:
        """Have one more run played as soon as there is room.

        account: whose, instead of the plan's next. told: what it is to say of itself beyond the plan.
        """
        run = self._make_run(len(self.runs))
        run.report.integrated_account_id = account or run.report.integrated_account_id
        run.start_options = start_options or {}
        self.runs.append(run)
        self._futures.append(self._pool.submit(run.play))
        return run

    def finish(self) -> list[RunReport]:
        """Return the reports of all runs once they have ended."""
        reports = []
        # Grows while it is walked through: a run may be started while the last one plays.
        for playing in self._futures:
            reports.append(playing.result())  # noqa: PERF401
        return reports


def simulate(
    plan: Plan,
    *,
    progress: Callable[[int], None],
    beside: Callable[[SimulationSession], AbstractContextManager[object]] | None = None,
) -> list[RunReport]:
    """Play a plan; return a report a run.

    progress: told how many records were just sent. beside: entered while the runs play, with their stage.
    """
    clock = EventClock(lambda: datetime.now(UTC))
    lock = threading.Lock()
    cancelled = threading.Event()

    def advance(records: int) -> None:
        with lock:
            progress(records)

    with open_http_client(plan.parallel) as client, ThreadPoolExecutor(plan.parallel) as pool:

        def make(number: int) -> SimulatedRun:
            return SimulatedRun(plan, number, clock, WebhookSender(plan.target, client, cancelled), advance)

        session = SimulationSession(make, pool, SimulatedWebhooks(plan, clock))
        try:
            with beside(session) if beside else nullcontext():
                for _ in range(plan.runs):
                    session.start()
                return session.finish()
        except BaseException:
            # The pool waits for its threads: without this, Ctrl-C takes effect when the last run is over.
            cancelled.set()
            raise
