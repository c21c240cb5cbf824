"""Several simulations at once against one receiver, and one simulated API for all their runs."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

from app.simulator.api import SimulatedApi
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from app.simulator.run import SimulatedRun
from app.simulator.session import SimulationSession, simulate

TOKEN = "a-token-that-is-never-shown"


class SessionGroup:
    """The sessions of several simulations, with the interface of one."""

    def __init__(self) -> None:
        self._sessions: list[SimulationSession] = []
        self._lock = threading.Lock()

    @property
    def runs(self) -> list[SimulatedRun]:
        return [run for session in self._sessions for run in session.runs]

    @property
    def webhooks(self) -> Any:
        return self._sessions[0].webhooks

    def start(self, **options: Any) -> SimulatedRun:
        return self._sessions[0].start(**options)

    @contextmanager
    def add_session(self, session: SimulationSession) -> Iterator[None]:
        with self._lock:
            self._sessions.append(session)
        yield


class SimulatedRuns:
    """Several simulations in progress; their API answers after their end as well. url: of the API."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.sessions = SessionGroup()
        self._pool = ThreadPoolExecutor(len(plans))
        self._pending_reports = [
            self._pool.submit(
                simulate, plan, progress=lambda _: None, session_context=self.sessions.add_session
            )
            for plan in plans
        ]
        self._api = SimulatedApi(cast(SimulationSession, self.sessions), TOKEN)
        self.url = self._api.url

    def __enter__(self) -> "SimulatedRuns":
        self._api.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._api.__exit__(None, None, None)

    def wait_for_reports(self) -> list[RunReport]:
        """Return the reports of all runs once they have ended, in the order of the plans."""
        return [report for reports in self._pending_reports for report in reports.result()]
