"""What goes on for ever must outlive its faults, and not fill the log with them."""

from collections.abc import Callable

import structlog

from app.errors import Retriable
from app.logs import place_of

log = structlog.get_logger()


class Faults:
    """Tries steps that are tried again anyway; a fault is logged once, as long as it is the same.

    event: what the log calls it. then: what happens next, for whoever reads it.
    """

    def __init__(self, event: str, *, then: str) -> None:
        self._event = event
        self._then = then
        self._last: dict[str, str] = {}

    def attempt(
        self, step: str, action: Callable[[], None], *, raises: tuple[type[Exception], ...] = ()
    ) -> None:
        """Do it; never fails, but with what `raises` names."""
        try:
            action()
        except raises:
            raise
        except Retriable as error:
            self._note(step, str(error))
        except Exception as error:  # noqa: BLE001  # a thread that ends would never do anything again
            self._note(step, f"{type(error).__name__} at {place_of(error)}")
        else:
            self._last.pop(step, None)

    def _note(self, step: str, fault: str) -> None:
        if fault != self._last.get(step):
            log.warning(self._event, step=step, error=fault, then=self._then)
        self._last[step] = fault
