"""One round of work at a time, with a shared result."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

import gevent

Result = TypeVar("Result")


class SharedRound(Generic[Result]):
    """Runs a function for the first request, and shares its result with the others.

    run: must not raise, and must end by itself. shared_for_s: the time that a result is valid.
    """

    def __init__(self, run: Callable[[], Result], *, shared_for_s: float) -> None:
        self._run = run
        self._shared_for_s = shared_for_s
        self._round: gevent.Greenlet[[], Result] | None = None
        self._expires_at_s = 0.0

    def read(self) -> Result:
        """Return the result of the newest round, or of the next one."""
        round_ = self._round
        if round_ is None or (round_.dead and time.monotonic() >= self._expires_at_s):
            # A greenlet of its own: a request that ends must not end the round for the others.
            self._round = round_ = gevent.spawn(self._run_once)
        result: Result = round_.get()
        return result

    def _run_once(self) -> Result:
        result = self._run()
        self._expires_at_s = time.monotonic() + self._shared_for_s
        return result
