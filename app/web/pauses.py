"""Pauses of long computations, in which the process serves its other requests."""

import time
from types import TracebackType
from typing import ClassVar, Self

import gevent

# All long computations together take no longer than this between two rounds of the other requests.
_MAX_STEP_S = 0.003
_PAUSE_S = 0.0001


class Pauses:
    """Pauses a computation that calls it often; a context manager around the computation."""

    _long_computations: ClassVar[int] = 0

    def __init__(self) -> None:
        self._is_long = False
        self._pause_at = time.monotonic() + _MAX_STEP_S

    def __call__(self) -> None:
        """Let the other requests run, if it is time to."""
        if time.monotonic() < self._pause_at:
            return
        if not self._is_long:
            self._is_long = True
            Pauses._long_computations += 1
        # Not 0: that lets ready greenlets run, but accepts no connection and reads no socket.
        gevent.sleep(_PAUSE_S)
        self._pause_at = time.monotonic() + _MAX_STEP_S / Pauses._long_computations

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Pauses._long_computations -= self._is_long
