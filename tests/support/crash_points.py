"""How a process under test ends itself at a chosen place of the code."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Condition = Callable[..., bool]


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Ends this process by a signal; once only, whichever process comes first, where there is a marker.

    marker: the file that says it has happened.
    """

    signal_number: int
    marker: Path | None = None

    @property
    def has_crashed(self) -> bool:
        return self.marker is not None and self.marker.exists()

    def crash(self) -> None:
        """End here and now, or go on where it has happened already."""
        if self.marker is not None:
            try:
                os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        os.kill(os.getpid(), self.signal_number)

    def crash_before(self, owner: Any, name: str, *, when: Condition = lambda *_: True) -> None:
        """End when this function is called. when: told its arguments."""
        function = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if when(*arguments):
                self.crash()
            return function(*arguments, **options)

        setattr(owner, name, call)

    def crash_after(self, owner: Any, name: str, *, when: Condition = lambda *_: True) -> None:
        """End when this function has done its work."""
        function = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            if when(*arguments):
                self.crash()
            return result

        setattr(owner, name, call)
