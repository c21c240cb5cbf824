"""Limit on the memory that request bodies use in one process."""

from types import TracebackType
from typing import Self

from gevent.event import Event

from app.errors import Overloaded


class MemoryBudget:
    """The bytes that the bodies of all connections may use together.

    If the budget is used up, one body at a time may exceed it. That body can always be read to its end, so
    half-read bodies that wait for each other's memory cannot block forever. The total is at most `max_bytes`
    plus one body.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.reserved_bytes = 0
        self._over_budget: Reservation | None = None
        self._released = Event()

    def try_reserve(self, reservation: "Reservation", count: int) -> bool:
        """Reserve `count` bytes; return False if the budget is used up and another body exceeds it."""
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
        """Return a body's memory to the budget; wake all waiting bodies if one of them may continue."""
        self.reserved_bytes -= count
        was_over_budget = self._over_budget is reservation
        if was_over_budget:
            self._over_budget = None
        # Most bodies are small and reserve nothing.
        if count or was_over_budget:
            self.wake()

    def wake(self) -> None:
        """Let all waiting bodies try again."""
        released, self._released = self._released, Event()
        released.set()


class Reservation:
    """The memory that one body has reserved; a context manager that releases it.

    is_waiting: whether the body is waiting for memory.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.is_waiting = False
        self._is_cancelled = False
        self._bytes = 0

    def acquire(self, count: int) -> None:
        """Reserve `count` bytes more; wait while the budget is used up. Raises Overloaded if cancelled."""
        while not self._budget.try_reserve(self, count):
            if self._is_cancelled:
                raise Overloaded("neither memory for a large body nor a place for its connection is free")
            self.is_waiting = True
            self._budget.wait_for_release()
        self.is_waiting = False
        self._bytes += count

    def cancel(self) -> None:
        """End the waiting for memory."""
        self._is_cancelled = True
        self._budget.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.release(self, self._bytes)
