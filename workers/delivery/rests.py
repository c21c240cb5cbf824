"""Which sinks are left alone for a while, since they take long to fail. Pure."""

# Who fails sooner holds nobody up.
_SLOW_FAILURE_S = 2.0
# So that a sink that does not answer gets a fifth of a worker's time at most.
_COOLDOWN_FACTOR = 4.0


class SinkCooldown:
    """The sinks of one worker that rest. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def remaining_s(self, sink: str, *, now: float) -> float:
        """Return how much longer a sink is to be left alone; 0 where it may be asked."""
        return max(0.0, self._until_s.get(sink, 0.0) - now)

    def record_failure(self, sink: str, *, began: float, now: float) -> None:
        """Give a sink a rest if its failure took long."""
        took_s = now - began
        if took_s > _SLOW_FAILURE_S:
            self._until_s[sink] = now + took_s * _COOLDOWN_FACTOR
