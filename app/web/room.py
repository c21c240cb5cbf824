"""Bounds the memory that bodies take, all connections of a process together."""

from types import TracebackType
from typing import Self

from gevent.lock import BoundedSemaphore


class Room:
    """Room for so many bytes of bodies at once; beyond it, one body at a time is read on.

    That one always gets to its end, so bodies that are half read and wait for each other's room cannot
    block for good, and memory is bounded by `most_bytes` and one body more.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.taken_bytes = 0
        self.last = BoundedSemaphore()


class Share:
    """What one body takes of the room; a context manager that gives it back.

    is_waiting: whether there is no room for it right now.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self.is_waiting = False
        self._bytes = 0
        self._is_last = False

    def take(self, count: int) -> None:
        """Take so many bytes more; waits while there is no room."""
        room = self._room
        if room.taken_bytes + count > room.most_bytes and not self._is_last:
            self.is_waiting = True
            room.last.acquire()
            self.is_waiting, self._is_last = False, True
        room.taken_bytes += count
        self._bytes += count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.taken_bytes -= self._bytes
        if self._is_last:
            self._room.last.release()
