"""The form of log lines: JSON, or `key=value`.

Values are bounded and have no control characters.
"""

import contextlib
import io
import json
import re
import sys
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any

import structlog
from structlog.typing import EventDict

# Truto chooses the names of resources: one must not move a terminal's cursor, start or fill a line.
_CONTROL_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# The ids of one job fit.
_MAX_VALUE_CHARS = 1300
_MAX_ITEMS = 100
_FIRST_KEYS = ("at", "level", "event")


class StderrStream(io.TextIOBase):
    """Standard error without its errors: a log on a full disk must not fail a delivery."""

    def write(self, text: str) -> int:
        """Write to standard error unless it is closed; ignore an error of the disk or the pipe."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError):
                sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush standard error unless it is closed; ignore an error of the disk or the pipe."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError):
                sys.stderr.flush()


def is_json(log_format: str) -> bool:
    """Whether lines are JSON. log_format: json, text, or auto for text in a terminal and JSON elsewhere."""
    if log_format != "auto":
        return log_format == "json"
    # A closed standard error is no terminal.
    return sys.stderr is None or sys.stderr.closed or not sys.stderr.isatty()


def clean_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Bound the values of an event, and replace their control characters."""
    return {name: _clean_value(value) for name, value in event.items()}


def _clean_value(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple | AbstractSet):
        value = ", ".join(str(item) for item in islice(value, _MAX_ITEMS))
    text = str(value)
    if len(text) > _MAX_VALUE_CHARS:
        text = text[:_MAX_VALUE_CHARS] + "…"
    return text if text.isprintable() else _CONTROL_CHARS.sub("\ufffd", text)


def choose_renderer(*, as_json: bool) -> Any:
    """Return the processor that renders a cleaned event as one line."""
    if as_json:
        return _render_json
    return structlog.processors.LogfmtRenderer(key_order=_FIRST_KEYS, sort_keys=False)


def _render_json(_logger: object, _method: str, event: EventDict) -> str:
    first = {name: event.pop(name) for name in _FIRST_KEYS if name in event}
    return json.dumps({**first, **event}, ensure_ascii=False, separators=(",", ":"))
