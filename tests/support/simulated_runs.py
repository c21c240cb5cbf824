"""Plans played at once against one receiver, and Truto's API for all of their runs, also after their end."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

from app.simulator.api import SimulatedApi
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from app.simulator.run import Run
from app.simulator.session import Stage, simulate

TOKEN = "a-token-that-is-never-shown"


class Stages:
    """The stages of several plays, looked at as one."""

    def __init__(self) -> None:
        self._stages: list[Stage] = []
        self._lock = threading.Lock()

    @property
    def runs(self) -> list[Run]:
        return [run for stage in self._stages for run in stage.runs]

    @property
    def webhooks(self) -> Any:
        return self._stages[0].webhooks

    def start(self, **told: Any) -> Run:
        return self._stages[0].start(**told)

    @contextmanager
    def beside(self, stage: Stage) -> Iterator[None]:
        with self._lock:
            self._stages.append(stage)
        yield


class Play:
    """Several plans under way. url: of the API."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.stages = Stages()
        self._pool = ThreadPoolExecutor(len(plans))
        self._playing = [
            self._pool.submit(simulate, plan, progress=lambda _: None, beside=self.stages.beside)
            for plan in plans
        ]
        self._api = SimulatedApi(cast(Stage, self.stages), TOKEN)
        self.url = self._api.url

    def __enter__(self) -> "Play":
        self._api.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._api.__exit__(None, None, None)

    def finish(self) -> list[RunReport]:
        """Return the reports of all runs once they have ended, in the order of the plans."""
        return [report for playing in self._playing for report in playing.result()]
