"""Follow an operation until it ends, and carry it out unless another process does."""

import time
from typing import Protocol

from app.database.engine import Database
from app.replay.executor import OperationExecutor
from app.store.operations import Operation, Operations

_POLL_INTERVAL_S = 0.25
_STALL_S = 60.0


class OperationObserver(Protocol):
    """Receives the progress of an operation, in the thread that follows it."""

    def on_progress(self, operation: Operation) -> None:
        """Receive the operation with its current progress."""

    def on_stalled(self, operation: Operation, stalled_s: float) -> None:
        """Receive an operation that made no progress for this many seconds."""


def follow_operation(
    database: Database, operation: Operation, *, executor: OperationExecutor, observer: OperationObserver
) -> Operation:
    """Return the operation when it has ended; raises StoreUnavailable.

    Interrupted by an exception, it is left to the workers.
    """
    operations = Operations(database)
    changed_at_s, last_done = time.monotonic(), -1
    try:
        while True:
            can_continue = executor.run_slice(operation.id)
            operation = operations.get(operation.id) or operation
            observer.on_progress(operation)
            if operation.is_finished:
                return operation
            if operation.done != last_done:
                changed_at_s, last_done = time.monotonic(), operation.done
            elif time.monotonic() - changed_at_s > _STALL_S:
                changed_at_s = time.monotonic()
                observer.on_stalled(operation, _STALL_S)
            if not can_continue:
                time.sleep(_POLL_INTERVAL_S)
    finally:
        if not operation.is_finished:
            executor.release(operation.id)
