"""Simulation of all runs of a plan, several in parallel."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from app.clock import utc_now
from app.simulator.event_writer import EventClock
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from app.simulator.run import SimulatedRun
from app.simulator.simulated_webhooks import SimulatedWebhooks
from app.truto.webhook_sender import SendOutcome, WebhookSender, open_sender_client


class SimulationSession:
    """The runs of a simulation, including those started through the API, and its webhooks."""

    def __init__(
        self, make_run: Callable[[int], SimulatedRun], pool: ThreadPoolExecutor, webhooks: SimulatedWebhooks
    ) -> None:
        self.webhooks = webhooks
        self._make_run = make_run
        self._pool = pool
        self._futures: list[Future[RunReport]] = []
        self.runs: list[SimulatedRun] = []

    def start(self, *, account: str = "", start_options: Mapping[str, Any] | None = None) -> SimulatedRun:
        """Start another run as soon as a thread of the pool is free.

        account: the integrated account, instead of the plan's next. start_options: members that replace the
        plan's in the run's description, such as `args`.
        """
        run = self._make_run(len(self.runs))
        run.report.integrated_account_id = account or run.report.integrated_account_id
        run.start_options = start_options or {}
        self.runs.append(run)
        self._futures.append(self._pool.submit(run.execute))
        return run

    def finish(self) -> list[RunReport]:
        """Wait for all runs and return their reports."""
        reports = []
        # A plain loop, because the list may grow meanwhile: the API can start a run while the last one runs.
        for future in self._futures:
            reports.append(future.result())  # noqa: PERF401
        return reports


@contextmanager
def running_session(
    plan: Plan,
    *,
    progress: Callable[[int], None],
    session_context: Callable[[SimulationSession], AbstractContextManager[object]] | None = None,
    on_rejected: Callable[[SendOutcome], None] = lambda _: None,
) -> Iterator[SimulationSession]:
    """Start all runs of a plan, and keep their session until the body ends; an exception cancels the runs.

    progress, session_context: see `simulate`. on_rejected: see `WebhookSender`; called in the runs' threads.
    """
    clock = EventClock(utc_now)
    lock = threading.Lock()
    cancelled = threading.Event()

    def advance(records: int) -> None:
        with lock:
            progress(records)

    with open_sender_client(plan.parallel) as client, ThreadPoolExecutor(plan.parallel) as pool:

        def make_run(number: int) -> SimulatedRun:
            sender = WebhookSender(plan.target, client, cancelled, on_rejected=on_rejected)
            # A run that is started again, through the API, sends everything.
            run_plan = plan if number < plan.runs else replace(plan, lost=0.0, stop_after=None)
            return SimulatedRun(run_plan, number, clock, sender, advance)

        session = SimulationSession(make_run, pool, SimulatedWebhooks(plan, clock))
        try:
            with session_context(session) if session_context else nullcontext():
                for _ in range(plan.runs):
                    session.start()
                yield session
        except BaseException:
            # The pool waits for its threads: without this, Ctrl-C takes effect only after the last run.
            cancelled.set()
            for run in session.runs:
                # End the pauses between pages.
                run.stop()
            raise


def simulate(
    plan: Plan,
    *,
    progress: Callable[[int], None],
    session_context: Callable[[SimulationSession], AbstractContextManager[object]] | None = None,
) -> list[RunReport]:
    """Simulate all runs of a plan; return one report for each run.

    progress: called with the number of records after each page. session_context: returns a context manager
    for the session, entered before the first run starts and left after the last run ends.
    """
    with running_session(plan, progress=progress, session_context=session_context) as session:
        return session.finish()
