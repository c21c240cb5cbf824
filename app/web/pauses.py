"""Pauses of a long computation, in which the process serves its other requests."""

import time
from collections.abc import Callable

import gevent

_MAX_STEP_S = 0.01
_PAUSE_S = 0.0001


def make_pause() -> Callable[[], None]:
    """Return a function for the computation to call often; it lets the others run once its time is up."""
    until = time.monotonic() + _MAX_STEP_S

    def pause() -> None:
        nonlocal until
        if time.monotonic() < until:
            return
        # Not 0: that lets ready greenlets run, but accepts no connection and reads no socket.
        gevent.sleep(_PAUSE_S)
        until = time.monotonic() + _MAX_STEP_S

    return pause
