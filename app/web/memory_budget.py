"""Bounds the memory that request bodies take in one process."""

from types import TracebackType
from typing import Self

from gevent.event import Event


class MemoryBudget:
    """A number of bytes that the bodies of all connections share.

    If it is used up, one body at a time is read on beyond it. That body always gets to its end, so
    half-read bodies that wait for each other's memory cannot block for good. The total is at most `max_bytes`
    and one body more.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.reserved_bytes = 0
        self._over_budget: Reservation | None = None
        self._released = Event()

    def try_reserve(self, reservation: "Reservation", count: int) -> bool:
        """Reserve `count` bytes within the budget, or for the one body beyond it; False if neither works."""
        if self.reserved_bytes + count > self.max_bytes:
            if self._over_budget is None:
                self._over_budget = reservation
            if self._over_budget is not reservation:
                return False
        self.reserved_bytes += count
        return True

    def wait_for_release(self) -> None:
        """Return once a body has released memory."""
        self._released.wait()

    def release(self, reservation: "Reservation", count: int) -> None:
        """Take back the memory of a body, and wake every body that waits."""
        self.reserved_bytes -= count
        if self._over_budget is reservation:
            self._over_budget = None
        released, self._released = self._released, Event()
        released.set()


class Reservation:
    """The memory that one body has reserved; a context manager that releases it.

    is_waiting: whether the body waits for memory right now.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.is_waiting = False
        self._bytes = 0

    def acquire(self, count: int) -> None:
        """Reserve `count` bytes more; wait while the budget is used up."""
        while not self._budget.try_reserve(self, count):
            self.is_waiting = True
            self._budget.wait_for_release()
        self.is_waiting = False
        self._bytes += count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.release(self, self._bytes)
