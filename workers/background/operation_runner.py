"""The runner of operations: carries out replays and discards beside the workers."""

from functools import partial
from uuid import UUID

import structlog

from app.database.engine import Database
from app.replay.executor import OperationExecutor
from app.store.operations import Operation, Operations
from workers.background.loop import PeriodicTask

_INTERVAL_S = 1.0
_BUSY_INTERVAL_S = 0.5

log = structlog.get_logger()


class OperationRunner(PeriodicTask):
    """Gives every unfinished operation a second of work in turn.

    Any number may run, on any number of machines: each operation is leased by one of them. owner: the name of
    this process, unique.
    """

    def __init__(self, database: Database, *, owner: str) -> None:
        super().__init__("operations", interval_s=_INTERVAL_S)
        self._operations = Operations(database)
        self._executor = OperationExecutor(database, owner=owner, on_end=_log_end)
        self._is_busy = False

    @property
    def interval_s(self) -> float:
        """Half a second while there are unfinished operations, otherwise a second."""
        return _BUSY_INTERVAL_S if self._is_busy else _INTERVAL_S

    def run_once(self) -> None:
        """Work on every unfinished operation once."""
        ids = [operation.id for operation in self._operations.list_unfinished()]
        self._is_busy = bool(ids)
        self.run_each("operation", [(str(id_), partial(self._run_slice, id_)) for id_ in ids])

    def _run_slice(self, operation_id: UUID) -> None:
        self._executor.run_slice(operation_id)


def _log_end(operation: Operation) -> None:
    fields = {"operation": str(operation.id), "kind": str(operation.kind), "done": operation.done}
    if operation.error:
        log.error("operation.failed", error=operation.error, **fields)
    else:
        log.info("operation.finished", **fields)
