"""Rate limit for requests that end without a verified body."""

import time

# Health checks, metrics and pages are a few a second.
_FREE_PER_S = 100
_BURST_S = 1.0
# With this pause between two, they take less than a quarter of a process.
_PAUSE_S = 0.004


class UnverifiedRate:
    """Spreads unverified requests once a process has served more than 100 a second of them.

    Unsigned clients can send requests in a loop on all connections.
    """

    def __init__(self) -> None:
        self._exceeded_until = 0.0
        self._last_start = 0.0

    def record(self) -> None:
        """Count a request that ended without a verified body."""
        now = time.monotonic()
        exceeded_until = max(self._exceeded_until, now - _BURST_S) + 1 / _FREE_PER_S
        # A flood has an effect for this time after its end.
        self._exceeded_until = min(exceeded_until, now + _BURST_S)

    def is_exceeded(self) -> bool:
        """Whether the process gets more unverified requests than it serves at once."""
        return time.monotonic() < self._exceeded_until

    def reserve_start(self) -> float:
        """Return the delay in seconds of a request that may be unverified: they start one by one."""
        if not self.is_exceeded():
            return 0.0
        now = time.monotonic()
        self._last_start = max(self._last_start + _PAUSE_S, now)
        return self._last_start - now
