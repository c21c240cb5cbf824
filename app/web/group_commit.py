"""Group commit: one leader commits the items of all waiting requests."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from app.errors import StoreUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Entry(Generic[Item, Result]):
    """A waiting caller. wakeup: set when its result is ready, or when it must lead the next group."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.wakeup = threading.Event()
        self.result: Result | None = None
        self.error: Exception | None = None
        self.is_done = False


class GroupCommit(Generic[Item, Result]):
    """Commits items in groups: one group at a time, bounded in number and size.

    The first caller commits its item and the items of all callers that have arrived meanwhile, then passes
    leadership to the first caller that came too late for the group. A single caller does not wait. Works with
    threads, and with greenlets after gevent has patched `threading`.

    commit: takes items, returns as many results in the same order, or raises for all of them.
    max_items, max_size: the limits of a group; a larger item forms a group alone. size_of: returns an
    item's size.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_items: int,
        size_of: Callable[[Item], int],
        max_size: int,
    ) -> None:
        self._commit = commit
        self._max_items = max_items
        self._size_of = size_of
        self._max_size = max_size
        self._lock = threading.Lock()
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._has_leader = False

    @property
    def waiting(self) -> int:
        """The number of callers that wait for the commit in progress."""
        return len(self._waiting)

    def submit(self, item: Item) -> Result:
        """Return the item's result once it is committed; raise the error of its commit."""
        entry: _Entry[Item, Result] = _Entry(item)
        with self._lock:
            self._waiting.append(entry)
            is_leader = not self._has_leader
            self._has_leader = True
        if not is_leader:
            self._wait(entry)
        if not entry.is_done:
            self._lead()
        if entry.error is not None:
            raise entry.error
        return entry.result  # type: ignore[return-value]  # set with is_done, and None may be a Result

    def _wait(self, entry: _Entry[Item, Result]) -> None:
        try:
            entry.wakeup.wait()
        except BaseException:
            # Killed while waiting: leave the queue, and pass leadership on.
            with self._lock:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                was_chosen = entry.wakeup.is_set() and not entry.is_done
            if was_chosen:
                self._pass_leadership()
            raise

    def _lead(self) -> None:
        # Let callers that are ready join: a commit on SQLite blocks the process, so none can join later.
        time.sleep(0)
        group = self._take_group()
        try:
            results = self._commit([entry.item for entry in group])
            for entry, result in zip(group, results, strict=True):
                entry.result = result
        except BaseException as error:
            # The followers of a killed leader get an ordinary error, not its exit.
            fault = error if isinstance(error, Exception) else StoreUnavailable("the commit was interrupted")
            if isinstance(error, StoreUnavailable):
                # Callers that arrived meanwhile would only wait for the same timeout.
                group += self._take_all()
            for entry in group:
                entry.error = fault
            if not isinstance(error, Exception):
                raise
        finally:
            for entry in group:
                entry.is_done = True
                entry.wakeup.set()
            self._pass_leadership()

    def _take_group(self) -> list[_Entry[Item, Result]]:
        group: list[_Entry[Item, Result]] = []
        size = 0
        with self._lock:
            while self._waiting and len(group) < self._max_items:
                size += self._size_of(self._waiting[0].item)
                if group and size > self._max_size:
                    break
                group.append(self._waiting.popleft())
        return group

    def _take_all(self) -> list[_Entry[Item, Result]]:
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        return waiting

    def _pass_leadership(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting[0].wakeup.set()
            else:
                self._has_leader = False
