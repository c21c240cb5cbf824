"""Private servers on unix sockets, which end with the process that started them."""

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes import Lifeline, find_descendants, is_alive, send_signal
from tests.support.waiting import wait_until

_STOP_TIMEOUT_S = 60.0


class Server(ABC):
    """A server in a private folder, which can be stopped or killed, and started again.

    as_user: Popen's `user`, `group` and `extra_groups`, to run it as another user.
    """

    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path, command: Sequence[str], as_user: dict[str, Any] | None = None) -> None:
        self._folder = folder
        self._command = command
        self._as_user = as_user or {}
        self._log = folder / "log"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def folder(self) -> Path:
        """The folder of its data and socket."""
        return self._folder

    @abstractmethod
    def answers(self) -> bool:
        """Whether this very process is ready, and no other at the same place."""

    def start(self) -> None:
        """Start it and return when it answers; otherwise end it and fail with the end of its log."""
        self._process = self._launch(self._command)
        self._lifeline = Lifeline(self.pid)
        try:
            wait_until(self._is_ready, timeout_s=30, what=lambda: f"an answer\n{self._log_end()}")
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Shut it down. Does nothing if it has ended already."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Kill it."""
        self._end(signal.SIGKILL)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Stop its processes inside the block: it accepts connections and never answers."""
        # First the one that starts the others: a process that it starts meanwhile would go on.
        send_signal(signal.SIGSTOP, [self.pid])
        family = [self.pid, *find_descendants(self.pid)]
        send_signal(signal.SIGSTOP, family)
        try:
            yield
        finally:
            # Also after Ctrl-C, because a stopped process cannot shut down.
            send_signal(signal.SIGCONT, family)

    def run(self, *command: str) -> None:
        """Run a command of the server's installation and check its exit code."""
        assert self._launch(command).wait(60) == 0, self._log_end()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._log_end()
        return self.answers()

    def _end(self, signal_number: int) -> None:
        self._lifeline.disarm()
        if self._process.poll() is None:
            family = [self.pid, *find_descendants(self.pid)]
            os.kill(self.pid, signal_number)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise
            # PostgreSQL does not start while processes of its last run hold its shared memory.
            wait_until(lambda: not any(map(is_alive, family)), what=f"{family} to be gone")

    def _launch(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                **self._as_user,
            )

    def _log_end(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]
