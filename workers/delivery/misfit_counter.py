"""Counter of values that did not fit their columns, saved every few seconds."""

import time
from collections import Counter
from collections.abc import Mapping

from app.clock import utc_now
from app.database.engine import Database
from app.errors import StoreUnavailable
from app.logs import FaultLog
from app.store.column_misfits import ColumnMisfits

_SAVE_INTERVAL_S = 5.0


class MisfitCounter:
    """The misfits of one worker since it saved them last.

    A killed worker loses the numbers of seconds, and a lost reply of the store makes them count twice.
    """

    def __init__(self, database: Database) -> None:
        self._store = ColumnMisfits(database)
        self._numbers: Counter[tuple[str, str, str]] = Counter()
        self._saved_at_s = 0.0
        self._fault = FaultLog("misfits.unsaved", "misfits.saved")

    def count(self, sink: str, resource: str, misfits: Mapping[str, int]) -> None:
        """Count values by column."""
        for column, number in misfits.items():
            self._numbers[sink, resource, column] += number

    def save(self) -> None:
        """Add the numbers to those of all workers, if it is time; an unavailable store is logged."""
        if not self._numbers or time.monotonic() - self._saved_at_s < _SAVE_INTERVAL_S:
            return
        self._saved_at_s = time.monotonic()
        try:
            self._store.add(self._numbers, now=utc_now())
        except StoreUnavailable as error:
            self._fault.add(str(error))
        else:
            self._fault.end()
            self._numbers.clear()
