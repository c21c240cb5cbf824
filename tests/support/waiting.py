"""Waiting for a condition instead of sleeping."""

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool], *, timeout_s: float = 20.0, what: Callable[[], str] | str = "the condition"
) -> None:
    """Return once the condition holds; fail with what was waited for if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s for {what if isinstance(what, str) else what()}")
        time.sleep(0.02)
