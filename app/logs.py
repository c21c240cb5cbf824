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

# Truto chooses the names of resources: one must not move a terminal's cursor or start a new line.
_CONTROL_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _replace_control_chars(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {
        name: value
        if not isinstance(value, str) or value.isprintable()
        else _CONTROL_CHARS.sub("\ufffd", value)
        for name, value in event.items()
    }


class _StderrStream(io.TextIOBase):
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
            _replace_control_chars,
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
