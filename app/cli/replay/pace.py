"""How fast a command may go. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """At most `rate` a second from `began_at_s` on; as fast as it goes where there is no rate. In seconds."""

    rate: float | None
    began_at_s: float

    def allows(self, now_s: float, done: int) -> int | None:
        """Return how many may follow now; None for any number."""
        return None if self.rate is None else max(0, int((now_s - self.began_at_s) * self.rate) + 1 - done)

    def wait_s(self, now_s: float, done: int) -> float:
        """Return how long to wait until the next may follow."""
        return 0.0 if self.rate is None else max(0.0, self.began_at_s + done / self.rate - now_s)
