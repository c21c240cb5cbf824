"""The configuration of logs in the test's own process, restored at the end."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from app.logs import LibraryLog, configure_logging


@contextmanager
def configured_logging(log_format: str) -> Iterator[None]:
    """Send log lines to standard error, as the processes do."""
    configured = structlog.get_config()
    levels = {name: logging.getLogger(name).level for name in ("rq", "httpx")}
    hooks = sys.excepthook, threading.excepthook
    configure_logging(log_format)
    # Other tests capture the events of the same loggers.
    structlog.configure(cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**configured)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        root = logging.getLogger()
        root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, LibraryLog)]
        logging.captureWarnings(False)
        sys.excepthook, threading.excepthook = hooks
