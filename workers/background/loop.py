"""What goes on for ever must outlive its faults, and not fill the log with them."""

from collections.abc import Callable

import structlog

from app.errors import TransientError
from app.logs import locate_error

log = structlog.get_logger()


class PeriodicTask:
    """Tries steps that are tried again anyway; a fault is logged once, as long as it is the same.

    event: what the log calls it. then: what happens next, for whoever reads it.
    """

    def __init__(self, event: str, *, then: str) -> None:
        self._event = event
        self._then = then
        self._last_failures: dict[str, str] = {}

    def run_step(
        self, step: str, action: Callable[[], None], *, raises: tuple[type[Exception], ...] = ()
    ) -> None:
        """Do it; never fails, but with what `raises` names."""
        try:
            action()
        except raises:
            raise
        except TransientError as error:
            self._log_failure(step, str(error))
        except Exception as error:  # noqa: BLE001  # a thread that ends would never do anything again
            self._log_failure(step, f"{type(error).__name__} at {locate_error(error)}")
        else:
            self._last_failures.pop(step, None)

    def _log_failure(self, step: str, failure: str) -> None:
        if failure != self._last_failures.get(step):
            log.warning(self._event, step=step, error=failure, then=self._then)
        self._last_failures[step] = failure
