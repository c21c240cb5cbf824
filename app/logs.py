"""Structured logs: one `key=value` line for each outcome, on standard error.

Fields are ids and counts. Bodies, signatures, secrets and fields of records are never logged.
"""

import contextlib
import io
import logging
import re
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict

# Truto chooses the names of resources: one must not move a terminal's cursor, start or fill a line.
_CONTROL_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MAX_VALUE_CHARS = 1000


def _clean_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {name: _clean_value(value) for name, value in event.items()}


def _clean_value(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    if len(text) > _MAX_VALUE_CHARS:
        text = text[:_MAX_VALUE_CHARS] + "…"
    return text if text.isprintable() else _CONTROL_CHARS.sub("\ufffd", text)


class _StderrStream(io.TextIOBase):
    """Standard error without its errors: a log on a full disk must not fail a delivery."""

    def write(self, text: str) -> int:
        """Write to standard error; ignore an error of the disk or the pipe."""
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush standard error; ignore an error of the disk or the pipe."""
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure_logging() -> None:
    """Send our own events, and the warnings of libraries, to standard error."""
    # RQ logs every job with its arguments; our own events log the result of each delivery.
    logging.getLogger("rq").setLevel(logging.WARNING)
    # httpx logs the URL of every request, and Slack's webhook URLs are secrets.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.add_log_level,
            _clean_values,
            structlog.processors.LogfmtRenderer(key_order=["at", "level", "event"], sort_keys=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _StderrStream())),
        cache_logger_on_first_use=True,
    )


def locate_error(error: Exception) -> str:
    """Return the file and line that raised an error; safe to log if its message quotes record data."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
