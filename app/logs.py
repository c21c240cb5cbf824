"""Structured logs: one line an outcome, `key=value`, with ids and counts, never with records or secrets."""

import contextlib
import io
import logging
import re
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict

# A resource's name is Truto's to choose: it must not move a terminal's cursor or begin a line of its own.
_CONTROL_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _replace_control_chars(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {
        name: value
        if not isinstance(value, str) or value.isprintable()
        else _CONTROL_CHARS.sub("\ufffd", value)
        for name, value in event.items()
    }


class _StderrStream(io.TextIOBase):
    """Standard error, as far as it takes lines: a log on a full disk must not fail a delivery."""

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure_logging() -> None:
    """Send our events, and warnings of libraries, to standard error."""
    # RQ tells of every job, with its arguments; ours say what came of each delivery.
    logging.getLogger("rq").setLevel(logging.WARNING)
    # It tells of every request, with its address; Slack's are secrets.
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
    """Return the file and line an error comes from: what may be logged of one whose message quotes data."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
