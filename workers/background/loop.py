"""The base of background tasks: a repeating thread that survives errors."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from app.errors import StoreUnavailable, TransientError
from app.logs import FaultLog, locate_error


class PeriodicTask(ABC):
    """A task that its own daemon thread repeats.

    The thread ends with the process, or after `stop`. name: of the thread, and of the task in logs.
    interval_s: the pause between two runs.
    """

    def __init__(self, name: str, *, interval_s: float) -> None:
        self.name = name
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._faults: dict[str, FaultLog] = {}
        # Of the current round.
        self._steps: set[str] = set()
        self._has_failed = False
        # The subjects of `run_each` that found the database unavailable, in the order of their next turn.
        self._postponed_ids: dict[str, None] = {}

    @property
    def interval_s(self) -> float:
        """The pause before the next run."""
        return self._interval_s

    def list_faults(self) -> list[tuple[str, FaultLog]]:
        """Return the steps that fail now; safe in other threads."""
        return list(self._faults.copy().items())

    @abstractmethod
    def run_once(self) -> None:
        """Do the work that is due now; errors of its steps are logged, not raised."""

    def start(self) -> None:
        """Start the thread: a database or a network that hangs must not block the caller."""
        threading.Thread(target=self._repeat, name=self.name, daemon=True).start()

    def stop(self) -> None:
        """End the thread after its current run."""
        self._stopped.set()

    def run_step(self, step: str, action: Callable[[], None]) -> Exception | None:
        """Run one step; log its errors, repeated ones at growing intervals, and its recovery.

        Returns the error, if there is one.
        """
        self._steps.add(step)
        try:
            action()
        except TransientError as error:
            self._log_error(step, str(error))
            return error
        except Exception as error:  # noqa: BLE001  # an ended thread would never run the task again
            self._log_error(step, f"{type(error).__name__} at {locate_error(error)}")
            return error
        if fault := self._faults.pop(step, None):
            fault.end()
        return None

    def run_each(self, kind: str, actions: Iterable[tuple[str, Callable[[], None]]]) -> None:
        """Run one step for each subject, by its id, until the database is unavailable.

        The subject that found it unavailable comes last in the next call: if only its own statements time
        out, it does not block the others.
        """
        postponed = {}
        for id_, action in actions:
            if id_ in self._postponed_ids:
                postponed[id_] = action
            elif not self._run_subject(kind, id_, action):
                return
        for id_ in list(self._postponed_ids):
            del self._postponed_ids[id_]
            if id_ in postponed and not self._run_subject(kind, id_, postponed[id_]):
                return

    def _run_subject(self, kind: str, id_: str, action: Callable[[], None]) -> bool:
        """Run the step of a subject; return False if the database is unavailable."""
        is_unavailable = isinstance(self.run_step(f"{kind} {id_}", action), StoreUnavailable)
        if is_unavailable:
            self._postponed_ids[id_] = None
        return not is_unavailable

    def _repeat(self) -> None:
        while not self._stopped.is_set():
            self.run_step("run", self._run_round)
            self._stopped.wait(self.interval_s)

    def _run_round(self) -> None:
        self._steps.clear()
        self._has_failed = False
        self.run_once()
        if self._has_failed:
            # The steps that were not run may be parts of the failed one.
            return
        # Steps that are no longer run, such as those of an ended run, do not fail any more.
        for step in self._faults.keys() - self._steps - {"run"}:
            self._faults.pop(step).end()

    def _log_error(self, step: str, error: str) -> None:
        self._has_failed = True
        if step not in self._faults:
            self._faults[step] = FaultLog(
                "task.failed", "task.recovered", logs_changes=True, task=self.name, step=step
            )
        self._faults[step].add(error, retry_in_s=round(self.interval_s, 1))
