"""Waits for conditions, and time bounds that hold on a busy machine."""

import time
from collections.abc import Callable

_CALIBRATION_CPU_S = 0.1


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
    """Return the factor by which other processes slow this one down: 1.0 on an idle machine.

    Multiply a bound on elapsed time by it, so that the bound is exact on an idle machine and holds on a busy one.
    """
    started, cpu_started = time.monotonic(), time.thread_time()
    while (cpu_s := time.thread_time() - cpu_started) < _CALIBRATION_CPU_S:
        pass
    return max(1.0, (time.monotonic() - started) / cpu_s)
