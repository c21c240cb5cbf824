"""Crash points: a process under test kills itself at a chosen step."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Condition = Callable[..., bool]


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Ends this process by a signal; with a marker, only once for all processes.

    marker: a file that is created just before the crash.
    """

    signal_number: int
    marker: Path | None = None

    @property
    def has_crashed(self) -> bool:
        return self.marker is not None and self.marker.exists()

    def crash(self) -> None:
        """End this process, or return if the marker exists already."""
        if self.marker is not None:
            try:
                os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        os.kill(os.getpid(), self.signal_number)

    def crash_before(self, owner: Any, name: str, *, when: Condition = lambda *_: True) -> None:
        """End when this function is called and `when` is true for its arguments."""
        function = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if when(*arguments):
                self.crash()
            return function(*arguments, **options)

        setattr(owner, name, call)

    def crash_after(self, owner: Any, name: str, *, when: Condition = lambda *_: True) -> None:
        """End when this function returns and `when` is true for its arguments."""
        function = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            if when(*arguments):
                self.crash()
            return result

        setattr(owner, name, call)
