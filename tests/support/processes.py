"""Processes under test, their descendants, and signals to them."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def find_descendants(pid: int) -> list[int]:
    """Return the ids of all child processes of this one, and of theirs."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            child = int(stat.parent.name)
            pids += [child, *find_descendants(child)]
    return pids


def send_signal(signal_number: int, pids: Sequence[int]) -> None:
    """Send a signal to processes that may be gone already."""
    for pid in pids:
        try:
            os.kill(pid, signal_number)
        except ProcessLookupError:
            continue


class Lifeline:
    """Kills a process when this one ends, because a killed pytest runs no fixture's end."""

    # Reads until the writing end is closed, by the kernel if need be.
    _WAIT = 'read -r _; kill -KILL "$0"'

    def __init__(self, pid: int) -> None:
        self._waiting = subprocess.Popen(
            ["sh", "-c", self._WAIT, str(pid)], stdin=subprocess.PIPE, start_new_session=True
        )

    def disarm(self) -> None:
        """Stop watching. Call it before the process ends: its id may then be reused by another."""
        self._waiting.kill()
        self._waiting.communicate()


class Command:
    """A command of the project that runs until it is stopped; a context manager.

    log: its output so far. umask: at its start; -1 for that of the tests.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: dict[str, str],
        cwd: Path | None = None,
        umask: int = -1,
    ) -> None:
        self._umask = umask
        self._log = folder / "command.log"
        self._cwd = cwd or folder
        self._command = command
        self._environment = {**environment, "PYTHONPATH": str(ROOT)}

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self._command],
                cwd=self._cwd,
                env=self._environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                umask=self._umask,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()

    def wait_for(self, text: str, *, timeout_s: float = 30.0) -> None:
        """Return once the command has printed this text."""

        def said() -> bool:
            assert self.process.poll() is None, self.log
            return text in self.log

        wait_until(said, timeout_s=timeout_s, what=lambda: f"{text!r} in\n{self.log}")

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit code. Fails if a process is left behind."""
        family = [self.pid, *find_descendants(self.pid)]
        os.kill(self.pid, signal_number)
        code = self.process.wait(40)
        wait_until(lambda: not any(map(is_alive, family)), what=f"{family} to be gone")
        return code
