"""Child processes: restarted after a crash, and all stopped at the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import structlog

_FIRST_RESTART_DELAY_S = 0.5
_MAX_RESTART_DELAY_S = 10.0
# A child that ran for this long has started correctly: its next restart is quick again.
_STABLE_AFTER_S = 30.0
_POLL_INTERVAL_S = 0.05
_SET_PARENT_DEATH_SIGNAL = 1
_LOG_NAME = "rapidbridge.log"

logger = structlog.get_logger()

# Asks the kernel to end the process with its parent, then executes the child's command. A preexec_fn could
# deadlock if the parent has threads.
_PARENT_DEATH_SCRIPT = f"""
import ctypes, os, signal, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
ctypes.CDLL(None).prctl({_SET_PARENT_DEATH_SIGNAL}, signal.SIGTERM)
if os.getppid() != parent:
    sys.exit(1)
os.execv(command[0], command)
"""


@dataclass(slots=True)
class _ChildProcess:
    name: str
    command: Sequence[str]
    environment: Mapping[str, str] | Callable[[], Mapping[str, str]]
    on_exit: Callable[[int], None] | None = None
    process: subprocess.Popen[bytes] | None = None
    started_at_s: float = 0.0
    restart_delay_s: float = _FIRST_RESTART_DELAY_S
    restart_at_s: float = 0.0


class Supervisor:
    """Starts child processes, restarts the ones that exit, and stops all of them.

    A context manager for the main thread. SIGTERM and SIGINT end `run`; outside of `run` they raise
    SystemExit and KeyboardInterrupt. Further signals have no effect, so that every child is stopped
    completely. Every child has its own session: Ctrl-C reaches only this process, which stops the children in
    order. A child that exits is restarted after 0.5 s at first, and after 10 s at most. On Linux children get
    SIGTERM even if this process is killed; on other systems they keep running.
    folder: working directory of the children and place of their log; without it, they use this process's.
    grace_s: time for all children together to exit, before SIGKILL.

    has_signal: whether SIGTERM or SIGINT has arrived.
    """

    def __init__(self, folder: Path | None = None, *, grace_s: float = 25.0) -> None:
        self._folder = folder
        self._grace_s = grace_s
        self._children: list[_ChildProcess] = []
        self._is_running = False
        self._is_stopping = False
        self.has_signal = False
        self._previous_handlers: dict[int, Any] = {}

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | Callable[[], Mapping[str, str]],
        *,
        on_exit: Callable[[int], None] | None = None,
    ) -> None:
        """Start a child. Children are stopped in the reverse order of their start.

        environment: its variables; a function is called for each start and restart. on_exit: called with the
        process id if the child exits by itself; must return at once.
        """
        child = _ChildProcess(name, command, environment, on_exit)
        self._children.append(child)
        self._launch(child)

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous_handlers[number] = signal.signal(number, self._on_stop_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            for number, handler in self._previous_handlers.items():
                signal.signal(number, handler)

    def run(
        self, on_tick: Callable[[], None] = lambda: None, *, until: Callable[[], bool] = lambda: False
    ) -> None:
        """Restart children that exit, until SIGTERM or SIGINT.

        on_tick, until: called twenty times a second; `until` ends the run if it returns True.
        """
        self._is_running = True
        while not self._is_stopping and not until():
            self.restart_exited()
            on_tick()
            time.sleep(_POLL_INTERVAL_S)

    def restart_exited(self) -> None:
        """Restart the children that have exited and whose delay is over."""
        for child in self._children:
            if child.process is None:
                if time.monotonic() >= child.restart_at_s:
                    self._launch(child)
            elif child.process.poll() is not None:
                ran_s = time.monotonic() - child.started_at_s
                child.restart_delay_s = (
                    _FIRST_RESTART_DELAY_S if ran_s > _STABLE_AFTER_S else child.restart_delay_s
                )
                logger.error(
                    "process.ended",
                    name=child.name,
                    code=child.process.returncode,
                    restart_in_s=child.restart_delay_s,
                )
                if child.on_exit is not None:
                    child.on_exit(child.process.pid)
                child.process = None
                child.restart_at_s = time.monotonic() + child.restart_delay_s
                child.restart_delay_s = min(child.restart_delay_s * 2, _MAX_RESTART_DELAY_S)

    def is_alive(self, name: str) -> bool:
        """Whether the child with this name is running."""
        return any(
            child.name == name and child.process is not None and child.process.poll() is None
            for child in self._children
        )

    def read_output(self) -> str:
        """Return the end of the children's log; "" without a folder."""
        return (self._folder / _LOG_NAME).read_text(errors="replace")[-2000:] if self._folder else ""

    def stop(self) -> None:
        """Stop the children with SIGTERM, the last started first, and with SIGKILL after the grace period.

        Children with the same command are stopped together, so that no worker takes new jobs while another
        finishes its last job.
        """
        self._is_stopping = True
        deadline = time.monotonic() + self._grace_s
        for _, children in groupby(reversed(self._children), key=lambda child: child.command):
            processes = [(child.name, child.process) for child in children if child.process is not None]
            for _, process in processes:
                process.terminate()
            for name, process in processes:
                try:
                    process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    logger.error("process.killed", name=name, after_s=self._grace_s)
                    _kill_session(process)
        self._children.clear()

    def _launch(self, child: _ChildProcess) -> None:
        child.started_at_s = time.monotonic()
        with (self._folder / _LOG_NAME).open("ab") if self._folder else nullcontext() as log:
            child.process = subprocess.Popen(
                [*_build_parent_death_prefix(), *child.command],
                cwd=self._folder,
                env=child.environment() if callable(child.environment) else child.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _on_stop_signal(self, number: int, _frame: FrameType | None) -> None:
        self.has_signal = True
        was_stopping, self._is_stopping = self._is_stopping, True
        if was_stopping or self._is_running:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        # The exit code that shells use for a process ended by a signal.
        raise SystemExit(128 + number)


def _build_parent_death_prefix() -> list[str]:
    if sys.platform != "linux":
        return []
    # Isolated, so that a file `signal.py` in the working directory is not imported.
    return [sys.executable, "-I", "-S", "-c", _PARENT_DEATH_SCRIPT, str(os.getpid())]


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    # The child's own children, such as gunicorn's workers, share its session.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
