"""How fast a command may go. Pure."""

from collections import deque
from dataclasses import dataclass

# Workers are woken every second: with less before them, they would be idle in between.
_LOOKAHEAD_S = 2.0
_WINDOW_S = 4.0


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `rate` a second from `began_at_s` on; as fast as it goes where there is no rate. In seconds."""

    rate: float | None
    started_at_s: float

    def count_allowed(self, now_s: float, done: int) -> int | None:
        """Return how many may follow now; None for any number."""
        return None if self.rate is None else max(0, int((now_s - self.started_at_s) * self.rate) + 1 - done)

    def compute_wait_s(self, now_s: float, done: int) -> float:
        """Return how long to wait until the next may follow."""
        return 0.0 if self.rate is None else max(0.0, self.started_at_s + done / self.rate - now_s)


class AdaptiveWindow:
    """How many may wait for workers at a time: two seconds of work, by what they did in the last four.

    least, most: bounds of that. What is live has to wait behind them.
    """

    def __init__(self, min_size: int, max_size: int) -> None:
        self._min_size = min_size
        self._max_size = max_size
        self._samples: deque[tuple[float, int]] = deque()

    def compute_size(self, now_s: float, settled: int) -> int:
        """Return how many may wait now. settled: how many are, of all."""
        self._samples.append((now_s, settled))
        while now_s - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        since_s, before = self._samples[0]
        rate = (settled - before) / (now_s - since_s) if now_s > since_s else 0.0
        return max(self._min_size, min(self._max_size, int(rate * _LOOKAHEAD_S)))
