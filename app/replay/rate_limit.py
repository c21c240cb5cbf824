"""A limit on the number of deliveries a second. Pure: times come in as monotonic seconds."""

from dataclasses import dataclass


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
