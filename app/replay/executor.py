"""Execution of operations, in slices, by the process that has the lease."""

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Protocol
from uuid import UUID

from app.clock import utc_now
from app.database.engine import Database
from app.errors import StoreUnavailable, TransientError
from app.logs import locate_error
from app.replay.operations import OperationRequest
from app.replay.rate_limit import RateLimit
from app.store.bounded_count import BoundedCount
from app.store.discards import DiscardableSet
from app.store.operations import Operation, OperationKind, Operations
from app.store.replays import Replay, Replays

# A replay does not let more of its deliveries wait for workers: their number is counted every round.
MAX_IN_PROGRESS = 2000
_BATCH_SIZE = 200
# More deliveries are not counted before the work begins: that would take longer than the lease.
_MAX_TOTAL = 100_000
# Other operations take their turns, and the lease is renewed in time.
_SLICE_S = 1.0


class _Execution(Protocol):
    """The work on one operation, in this process."""

    def run_batch(self, operation: Operation) -> bool | None:
        """Do a batch of work; return whether more can be done at once, or None at the end."""


class OperationExecutor:
    """Carries out operations of which no other process has the lease. Raises StoreUnavailable.

    Any number of processes may execute the same operation: each batch is done by one of them, and another
    process continues after the last batch of one that died. owner: the name of this process, unique.
    on_end: receives an operation that this process has finished, or that failed.
    """

    def __init__(
        self,
        database: Database,
        *,
        owner: str,
        on_end: Callable[[Operation], None] = lambda _: None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._operations = Operations(database)
        self._owner = owner
        self._on_end = on_end
        self._clock = clock
        self._executions: dict[UUID, _Execution] = {}

    def run_slice(self, operation_id: UUID) -> bool:
        """Work on an operation for about a second; return whether more can be done at once.

        Returns False if it has ended, waits for workers, or is executed by another process.
        """
        deadline = time.monotonic() + _SLICE_S
        can_continue = True
        while can_continue and time.monotonic() < deadline:
            operation = self._operations.lease(operation_id, owner=self._owner, now=self._clock())
            if operation is None:
                self._executions.pop(operation_id, None)
                return False
            can_continue = self._run_batch(operation)
        return can_continue

    def release(self, operation_id: UUID) -> None:
        """Leave an operation to other processes."""
        self._executions.pop(operation_id, None)
        self._operations.release(operation_id, owner=self._owner)

    def _run_batch(self, operation: Operation) -> bool:
        try:
            if operation.id not in self._executions:
                self._executions[operation.id] = self._open(operation)
            can_continue = self._executions[operation.id].run_batch(operation)
        except TransientError:
            raise
        except Exception as error:  # noqa: BLE001  # a bug must not repeat the operation for ever
            # The message may quote a record: only the place in the code is stored.
            fault = f"{type(error).__name__} at {locate_error(error)}"
            self._end(operation, error=fault)
            return False
        if can_continue is None:
            self._end(operation)
            return False
        return can_continue

    def _open(self, operation: Operation) -> _Execution:
        request = OperationRequest.from_json(operation.request)
        if operation.kind == OperationKind.REPLAY:
            return _ReplayExecution(self._database, operation, request, clock=self._clock)
        return _DiscardExecution(self._database, operation, request, clock=self._clock)

    def _end(self, operation: Operation, *, error: str = "") -> None:
        self._executions.pop(operation.id, None)
        has_ended = self._operations.finish(operation, now=self._clock(), error=error)
        # Without its lease, another process carries it out.
        if has_ended and (ended := self._operations.get(operation.id)):
            self._on_end(ended)


class _ReplayExecution:
    """Requeues the deliveries of a replay, and waits until they are settled."""

    def __init__(
        self,
        database: Database,
        operation: Operation,
        request: OperationRequest,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._replays = Replays(database)
        self._operations = Operations(database)
        self._request = request
        self._clock = clock
        self._rate_limit = RateLimit(request.rate, time.monotonic())
        # Of this process.
        self._requeued = 0
        self._is_exhausted = False
        replay = self._replays.get(operation.id)
        # Once work has begun, the rest is no total.
        if operation.total is None and replay and not replay.cursor:
            self._operations.save_progress(operation, total=_count_total(self._count))

    def run_batch(self, operation: Operation) -> bool | None:
        replay = self._replays.get(operation.id)
        if replay is None or replay.is_finished:
            # A command of an earlier release has finished it.
            return None
        pending = self._replays.count_pending(replay)
        if (done := replay.requeued_deliveries - pending) != operation.done:
            self._operations.save_progress(operation, done=done)
        if self._is_exhausted:
            return False if pending else None
        left = _BATCH_SIZE
        if self._request.limit is not None:
            left = min(left, self._request.limit - replay.requeued_deliveries)
        allowed = self._rate_limit.count_allowed(time.monotonic(), self._requeued)
        limit = left if allowed is None else min(left, allowed)
        if pending + limit > MAX_IN_PROGRESS or (left > 0 and limit <= 0):
            return False
        self._is_exhausted = left <= 0 or not self._requeue(replay, limit)
        return True

    def _count(self) -> BoundedCount:
        candidates = self._replays.count_candidates(self._request.delivery_filter, limit=_MAX_TOTAL)
        limit = self._request.limit
        return candidates if limit is None or candidates.as_number <= limit else BoundedCount(limit)

    def _requeue(self, replay: Replay, limit: int) -> bool:
        """Requeue up to `limit` deliveries; return False if none is left."""
        candidates = self._replays.find_candidates(
            self._request.delivery_filter, after=replay.cursor, limit=limit
        )
        if candidates:
            # Nothing is requeued if another process has moved the cursor: the next batch begins at it.
            self._replays.requeue(replay, candidates, sink=self._request.sink, now=self._clock())
            self._requeued += len(candidates)
        return bool(candidates)


class _DiscardExecution:
    """Discards the deliveries or records of an operation."""

    def __init__(
        self,
        database: Database,
        operation: Operation,
        request: OperationRequest,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        is_of_records = operation.kind == OperationKind.DISCARD_RECORDS
        self._set = DiscardableSet(database, request.delivery_filter, of_records=is_of_records)
        self._request = request
        self._clock = clock
        if operation.total is None and not operation.cursor:
            total = _count_total(partial(self._set.count_bounded, limit=_MAX_TOTAL))
            Operations(database).save_progress(operation, total=total)

    def run_batch(self, operation: Operation) -> bool | None:
        has_more = self._set.discard_page(operation, reason=self._request.because, now=self._clock())
        return True if has_more else None


def _count_total(count: Callable[[], BoundedCount]) -> int | None:
    """Return the number of deliveries or records; None if it is too large to count."""
    try:
        total = count()
    except StoreUnavailable:
        # A statement timeout, for example. The work needs no total, and reports an outage itself.
        return None
    return total.number if total.is_exact else None
