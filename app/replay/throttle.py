"""Throttling of replays: a rate limit, and a window of deliveries in progress.

Pure: times come in as monotonic seconds.
"""

from collections import deque
from dataclasses import dataclass

# Workers are woken every second: a smaller window would leave them idle in between.
_LOOKAHEAD_S = 2.0
_MEASURED_S = 4.0


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `rate` deliveries a second since `started_at_s`; None for no limit."""

    rate: float | None
    started_at_s: float

    def count_allowed(self, now_s: float, done: int) -> int | None:
        """Return the number of deliveries allowed now, after `done` ones; None for any number."""
        return None if self.rate is None else max(0, int((now_s - self.started_at_s) * self.rate) + 1 - done)

    def compute_wait_s(self, now_s: float, done: int) -> float:
        """Return the seconds until the next delivery is allowed, after `done` ones."""
        return 0.0 if self.rate is None else max(0.0, self.started_at_s + done / self.rate - now_s)


class AdaptiveWindow:
    """The number of replayed deliveries that may be in progress: two seconds of the workers' work.

    Measured over the last four seconds, between min_size and max_size. New deliveries wait behind those in
    progress, so the window also bounds how long a replay delays them.
    """

    def __init__(self, min_size: int, max_size: int) -> None:
        self._min_size = min_size
        self._max_size = max_size
        self._samples: deque[tuple[float, int]] = deque()

    def compute_size(self, now_s: float, settled: int) -> int:
        """Return the size now. settled: the deliveries settled since the start."""
        self._samples.append((now_s, settled))
        while now_s - self._samples[0][0] > _MEASURED_S:
            self._samples.popleft()
        oldest_s, settled_before = self._samples[0]
        rate = (settled - settled_before) / (now_s - oldest_s) if now_s > oldest_s else 0.0
        return max(self._min_size, min(self._max_size, int(rate * _LOOKAHEAD_S)))
