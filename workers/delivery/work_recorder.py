"""Recorder of a worker's deliveries and records, for the totals in the store."""

import time
from collections import Counter
from collections.abc import Mapping

from app.database.engine import Database
from app.errors import StoreUnavailable
from app.logs import FaultLog
from app.store.models import DeliveryResult, DeliveryState, SinkOutcome
from app.store.work_totals import WorkTotal, WorkTotals

_INTERVAL_S = 2.0


class WorkRecorder:
    """Counts in memory, and adds the numbers to the store every few seconds. Never raises.

    A lost reply of the store makes the numbers of these seconds count twice.
    """

    def __init__(self, database: Database) -> None:
        self._totals = WorkTotals(database)
        self._numbers: Counter[tuple[WorkTotal, str]] = Counter()
        self._due_at_s = 0.0
        self._fault = FaultLog("work.uncounted", "work.counted")

    def record_result(self, result: DeliveryResult, earlier: Mapping[str, SinkOutcome]) -> None:
        """Count a saved result. earlier: the outcomes of the delivery before this attempt, by sink."""
        if result.state_change.state != DeliveryState.PENDING:
            self._numbers[WorkTotal.DELIVERIES, result.state_change.state.value] += 1
        for outcome in result.outcomes:
            before = None if outcome.sink in result.restarted_sinks else earlier.get(outcome.sink)
            written, dead = (before.written, before.dead) if before else (0, 0)
            self._numbers[WorkTotal.RECORDS_WRITTEN, outcome.sink] += max(0, outcome.written - written)
            self._numbers[WorkTotal.RECORDS_DEAD, outcome.sink] += max(0, outcome.dead - dead)

    def record_write(self, sink: str, duration_s: float) -> None:
        """Count a write to a sink, whether it succeeded or failed."""
        self._numbers[WorkTotal.SINK_WRITES, sink] += 1
        self._numbers[WorkTotal.SINK_WRITE_MS, sink] += round(duration_s * 1000)

    def record_misfits(self, sink: str, number: int) -> None:
        """Count values that became NULL because they did not fit their columns."""
        self._numbers[WorkTotal.MISFITS, sink] += number

    def flush(self, *, is_last: bool = False) -> None:
        """Add the numbers to the store if it is due; they stay in memory while it is unavailable."""
        if not self._numbers or (time.monotonic() < self._due_at_s and not is_last):
            return
        self._due_at_s = time.monotonic() + _INTERVAL_S
        try:
            self._totals.add(self._numbers)
        except StoreUnavailable as error:
            self._fault.add(str(error))
            return
        self._fault.end()
        self._numbers.clear()
