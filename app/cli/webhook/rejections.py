"""Rejected requests, read from the counts of responses."""

from collections import Counter
from collections.abc import Iterator

from app.clock import utc_now
from app.database.engine import Database
from app.plural import format_count
from app.store.response_counts import STORED, ResponseCounts


class RejectionCounts:
    """Reader of the growing counts of a receiver; rejected requests are stored nowhere else."""

    def __init__(self, database: Database) -> None:
        self._counts = ResponseCounts(database)
        self._printed: Counter[tuple[str, str]] = Counter()
        self._started_at = utc_now()

    def read_new_lines(self) -> Iterator[str]:
        """Yield a line for the requests rejected since the last call, by cause; raises StoreUnavailable."""
        for count in self._counts.list_since(self._started_at):
            new = count.number - self._printed[count.status, count.cause]
            if new > 0 and count.status not in STORED:
                self._printed[count.status, count.cause] = count.number
                number = f" ({format_count(new, 'request')})" if new > 1 else ""
                yield f"          rejected, {count.status}: {count.meaning}{number}"
