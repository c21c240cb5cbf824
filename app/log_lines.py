"""The form of log lines: JSON, or `key=value`.

Values are bounded and have no control characters.
"""

import contextlib
import re
import sys
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from itertools import islice

import msgspec
import structlog
from structlog.typing import EventDict

# Truto chooses the names of resources: one must not move a terminal's cursor, start or fill a line.
_CONTROL_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# The ids of one job fit.
_MAX_VALUE_CHARS = 1300
_MAX_ITEMS = 100
# msgspec writes no longer integers.
_MAX_INTEGER = 2**63
_FIRST_KEYS = ("at", "level", "event")

_render_text = structlog.processors.LogfmtRenderer(key_order=_FIRST_KEYS, sort_keys=False)

RenderLine = Callable[[object, str, EventDict], bytes]


class StderrLogger:
    """Writes whole lines to standard error, without its text layer, which costs as much as the line."""

    def msg(self, line: bytes) -> None:
        """Write a line; ignore an error of the disk or the pipe, which must not fail a delivery."""
        # ValueError: it is closed. None: it was closed before the start.
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()

    debug = info = warning = error = critical = msg


def is_json(log_format: str) -> bool:
    """Whether lines are JSON. log_format: json, text, or auto for text in a terminal and JSON elsewhere."""
    if log_format != "auto":
        return log_format == "json"
    # A closed standard error is no terminal.
    return sys.stderr is None or sys.stderr.closed or not sys.stderr.isatty()


def choose_renderer(*, as_json: bool) -> RenderLine:
    """Return the processor that renders an event as one line, with its time and level."""
    return _render_as_json if as_json else _render_as_text


# One processor instead of four: each delivery has a line.
def _render_as_json(_logger: object, level: str, event: EventDict) -> bytes:
    return msgspec.json.encode(_complete(event, level)) + b"\n"


def _render_as_text(logger: object, level: str, event: EventDict) -> bytes:
    line = _complete(event, level)
    line["at"] = line["at"].isoformat().replace("+00:00", "Z")
    return (_render_text(logger, level, line) + "\n").encode()


def _complete(event: EventDict, level: str) -> EventDict:
    line: EventDict = {"at": datetime.now(UTC), "level": level, "event": event.pop("event")}
    for name, value in event.items():
        line[name] = _clean_value(value)
    return line


def _clean_value(value: object) -> str | int | float | None:
    """Bound a value, and replace its control characters."""
    # The usual case.
    if type(value) is str and len(value) <= _MAX_VALUE_CHARS and value.isprintable():
        return value
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < _MAX_INTEGER):
        return value
    if isinstance(value, list | tuple | AbstractSet):
        value = ", ".join(str(item) for item in islice(value, _MAX_ITEMS))
    text = str(value)
    if len(text) > _MAX_VALUE_CHARS:
        text = text[:_MAX_VALUE_CHARS] + "…"
    return text if text.isprintable() else _CONTROL_CHARS.sub("\ufffd", text)
