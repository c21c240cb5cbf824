"""Detection of lines of this project that run for the first time in a process."""

import sys
from pathlib import Path
from types import CodeType

_PROJECT = tuple(str(Path(__file__).parents[2] / package) + "/" for package in ("app", "workers"))
# One of two that no debugger, coverage or profiler takes by convention.
_TOOL_ID = 4


class NewLines:
    """Detects lines that run for the first time. Before Python 3.12 it detects none.

    Each line reports once, so that detection costs nearly nothing.
    """

    def __init__(self) -> None:
        self._has_new_line = False
        self._disable: object = None
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            self._disable = monitoring.DISABLE
            if monitoring.get_tool(_TOOL_ID) is None:
                monitoring.use_tool_id(_TOOL_ID, "fuzz")
            monitoring.restart_events()
            monitoring.register_callback(_TOOL_ID, monitoring.events.LINE, self._on_line)
            monitoring.set_events(_TOOL_ID, monitoring.events.LINE)

    def take(self) -> bool:
        """Return whether a new line has run since the last call."""
        has_new_line, self._has_new_line = self._has_new_line, False
        return has_new_line

    def _on_line(self, code: CodeType, _line: int) -> object:
        self._has_new_line |= code.co_filename.startswith(_PROJECT)
        return self._disable
