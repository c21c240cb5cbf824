"""Structured logs: one line for each outcome, on standard error.

Fields are ids and counts. Bodies, signatures, secrets and fields of records are never logged.
"""

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import structlog

from app.backoff import compute_backoff_s
from app.log_lines import StderrLogger, choose_renderer, is_json

# The pauses between two entries of the same fault.
_FIRST_REPEAT_S, _MAX_REPEAT_S = 60.0, 3600.0
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)

_log = structlog.get_logger()


def configure_logging(log_format: str = "auto") -> None:
    """Send our own events, and the messages of libraries, to standard error in one form.

    log_format: the setting LOG_FORMAT.
    """
    # RQ logs every job with its arguments; our own events log the result of each delivery.
    logging.getLogger("rq").setLevel(logging.WARNING)
    # httpx logs the URL of every request, and Slack's webhook URLs are secrets.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    structlog.configure(
        processors=[choose_renderer(as_json=is_json(log_format))],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_names: StderrLogger(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    if not any(isinstance(handler, LibraryLog) for handler in root.handlers):
        root.addHandler(LibraryLog())
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class LibraryLog(logging.Handler):
    """Logs the messages of libraries as events such as `rq.message`, without their tracebacks.

    The message of an error may quote a record. Several messages of one place in the code are one line a
    minute at most. interval_s: the time between two of them.
    """

    def __init__(self, *, interval_s: float = 60.0) -> None:
        super().__init__()
        self._interval_s = interval_s

    def emit(self, record: logging.LogRecord) -> None:
        """Log a message, or count it."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            # Its arguments do not fit. logging itself would print them all.
            message = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        fault = {"fault": type(error).__name__, "location": locate_error(error)} if error else {}
        log_limited(
            f"{record.name.partition('.')[0]}.message",
            text=f"{record.pathname}:{record.lineno}",
            interval_s=self._interval_s,
            level=max(level for level in _LEVELS if level <= max(record.levelno, logging.DEBUG)),
            message=message,
            **fault,
        )


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        _log.critical("process.failed", fault=kind.__name__, location=locate_error(error))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not issubclass(arguments.exc_type, SystemExit):
        name = arguments.thread.name if arguments.thread else ""
        location = locate_error(arguments.exc_value)
        _log.critical("thread.failed", thread=name, fault=arguments.exc_type.__name__, location=location)


@dataclass(slots=True)
class _Episode:
    """A fault since its beginning. due_at_s: of the next entry."""

    error: str
    since_s: float
    due_at_s: float
    times: int = 0
    entries: int = 0


class FaultLog:
    """Log entries of a fault that may last.

    The first one at once, the next after 1, 2, 4, … minutes up to an hour, and one for its end.
    failed, recovered: the names of the events. fields: of both. logs_changes: log another error at once.
    clock: in seconds.
    """

    def __init__(
        self,
        failed: str,
        recovered: str,
        *,
        logs_changes: bool = False,
        clock: Callable[[], float] = time.monotonic,
        **fields: object,
    ) -> None:
        self._failed, self._recovered = failed, recovered
        self._logs_changes = logs_changes
        self._clock = clock
        self._fields = fields
        self._episode: _Episode | None = None

    def __bool__(self) -> bool:
        """Whether the fault lasts."""
        return self._episode is not None

    @property
    def error(self) -> str:
        """The newest error; "" if the fault has ended."""
        return self._episode.error if self._episode else ""

    @property
    def lasts_s(self) -> float:
        """The time since its first occurrence; 0 if the fault has ended."""
        return self._clock() - self._episode.since_s if self._episode else 0.0

    def add(self, error: str, *, level: int = logging.WARNING, **fields: object) -> None:
        """Count an occurrence, and log it if an entry is due."""
        now_s = self._clock()
        if self._episode is None:
            self._episode = _Episode(error, now_s, now_s)
        episode = self._episode
        episode.times += 1
        is_changed = self._logs_changes and error != episode.error
        episode.error = error
        if now_s < episode.due_at_s and not is_changed:
            return
        if now_s >= episode.due_at_s:
            episode.entries += 1
            episode.due_at_s = now_s + compute_backoff_s(
                episode.entries, base_s=_FIRST_REPEAT_S, max_s=_MAX_REPEAT_S, jitter=(1.0, 1.0)
            )
        _log.log(level, self._failed, **self._fields, error=error, **fields, **self._describe(episode))

    def end(self) -> None:
        """Log the end of the fault, if there was one."""
        if self._episode is not None:
            _log.info(self._recovered, **self._fields, **self._describe(self._episode))
            self._episode = None

    def _describe(self, episode: _Episode) -> dict[str, object]:
        if episode.times == 1:
            return {}
        return {"failing_for_s": round(self._clock() - episode.since_s), "times": episode.times}


class _LimitedLog:
    """Logs an event at most once per interval, because others than Truto can cause any number of them."""

    def __init__(self) -> None:
        self._next_at: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def __call__(
        self,
        event: str,
        *,
        text: str = "",
        interval_s: float = 1.0,
        level: int = logging.WARNING,
        **fields: object,
    ) -> None:
        """Log an event; `left_out` counts its lines that were left out before.

        event: one of a few names. text: limit each text of the event on its own; one of a few, too.
        fields: no bytes of a request.
        """
        now, line = time.monotonic(), f"{event} {text}"
        if now < self._next_at.get(line, 0.0):
            self._left_out[line] += 1
            return
        self._next_at[line] = now + interval_s
        left_out = self._left_out.pop(line, 0)
        _log.log(level, event, **fields, **({"left_out": left_out} if left_out else {}))


log_limited = _LimitedLog()


def locate_error(error: BaseException) -> str:
    """Return the file and line that raised an error; safe to log if its message quotes record data."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
