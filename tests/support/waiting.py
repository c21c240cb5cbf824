"""Waits for conditions, and time bounds that hold on a busy machine."""

import time
from collections.abc import Callable

# A loop of so many rounds takes so long on an idle machine of the kind that the bounds were chosen on.
_ROUNDS, _REFERENCE_S = 4_000_000, 0.11
# A machine that stands still during the measurement must not make a failing test wait for hours.
_MAX_SLOWDOWN = 8.0


def wait_until(
    condition: Callable[[], bool],
    *,
    timeout_s: float = 20.0,
    interval_s: float = 0.02,
    what: Callable[[], str] | str = "the condition",
) -> None:
    """Return once the condition holds; fail after the timeout, which is longer on a busy machine.

    interval_s: between two checks; longer for a check that costs much. what: the condition, for the message.
    """
    started = time.monotonic()
    limit_s = timeout_s
    while not condition():
        if time.monotonic() - started > limit_s:
            limit_s = timeout_s * measure_slowdown()
            if time.monotonic() - started > limit_s:
                description = what if isinstance(what, str) else what()
                raise AssertionError(f"waited {limit_s:.0f} s for {description}")
        time.sleep(interval_s)


def measure_slowdown() -> float:
    """Return how many times longer this machine takes now than an idle one of the usual kind: 1.0 to 8.0.

    Multiply a bound on elapsed time by it, so that the bound is exact there and holds on a busy or slow machine.
    """
    started, rounds = time.monotonic(), _ROUNDS
    while rounds:
        rounds -= 1
    return min(_MAX_SLOWDOWN, max(1.0, (time.monotonic() - started) / _REFERENCE_S))
