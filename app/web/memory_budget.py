"""Bounds the memory that bodies take, all connections of a process together."""

from types import TracebackType
from typing import Self

from gevent.event import Event


class MemoryBudget:
    """Room for so many bytes of bodies at once; beyond it, one body at a time is read on.

    That one always gets to its end, so bodies that are half read and wait for each other's room cannot
    block for good, and memory is bounded by `most_bytes` and one body more.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.reserved_bytes = 0
        # The one that is read on beyond the room.
        self.last: Reservation | None = None
        self._given_back = Event()

    def wait_for_release(self) -> None:
        """Return once something was given back."""
        self._given_back.wait()

    def release(self, reservation: "Reservation", count: int) -> None:
        """Take back what a body had, and have all who wait look again."""
        self.reserved_bytes -= count
        if self.last is reservation:
            self.last = None
        given_back, self._given_back = self._given_back, Event()
        given_back.set()


class Reservation:
    """What one body takes of the room; a context manager that gives it back.

    is_waiting: whether there is no room for it right now.
    """

    def __init__(self, room: MemoryBudget) -> None:
        self._room = room
        self.is_waiting = False
        self._bytes = 0

    def acquire(self, count: int) -> None:
        """Take so many bytes more; waits while there is no room."""
        room = self._room
        while room.last is not self and room.reserved_bytes + count > room.max_bytes:
            if room.last is None:
                room.last = self
            else:
                self.is_waiting = True
                room.wait_for_release()
        self.is_waiting = False
        room.reserved_bytes += count
        self._bytes += count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.release(self, self._bytes)
