"""A process that is killed in the second batch of an operation.

Run it with `python -m tests.support.crashing_operation STEP URL OPERATION_ID`.
"""

import signal
import sys
from collections.abc import Callable, Mapping
from itertools import count
from uuid import UUID

from app.database.engine import open_database
from app.replay import executor as executors
from app.replay.executor import OperationExecutor
from app.store import discards, replays
from app.store.discards import DiscardableSet
from app.store.operations import Operations
from app.store.replays import Replays
from tests.support.crash_points import Condition, CrashPoint

BATCH_SIZE = 4


def _is_second() -> Condition:
    calls = count(1)
    return lambda *_: next(calls) == 2


STEPS: Mapping[str, Callable[[CrashPoint], None]] = {
    "leased": lambda point: point.crash_after(Operations, "lease", when=_is_second()),
    # The deliveries are requeued in a transaction that is not committed yet.
    "requeueing": lambda point: point.crash_after(replays, "delete_outcomes", when=_is_second()),
    "requeued": lambda point: point.crash_after(Replays, "requeue", when=_is_second()),
    "discarding": lambda point: point.crash_after(discards, "add_done", when=_is_second()),
    "discarded": lambda point: point.crash_after(DiscardableSet, "discard_page", when=_is_second()),
}


if __name__ == "__main__":
    STEPS[sys.argv[1]](CrashPoint(signal.SIGKILL))
    executors._BATCH_SIZE = discards._PAGE_SIZE = BATCH_SIZE
    executor = OperationExecutor(open_database(sys.argv[2]), owner="killed")
    while executor.run_slice(UUID(sys.argv[3])):
        continue
