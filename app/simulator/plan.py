"""What to simulate."""

from dataclasses import dataclass
from typing import Literal

DEFAULT_RESOURCES = (
    ("crm/contacts", "list"),
    ("crm/accounts", "list"),
    ("ticketing/tickets", "list"),
    ("ticketing/comments", "list"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Runs of a sync job against one receiver.

    records: fetched by all runs together. resources: (resource, method); `ticketing/comments` belong to the
    tickets of the same run. duplicates, reordering: shares of pages that are sent twice, or after the next
    one. changes: share of records that are newer versions of records fetched shortly before. record_errors:
    of all runs together, batched in one event or one event each. stop_after: share of its pages after which a
    run is stopped, or None. forged: requests that nobody signed, in between. first_backoff_s: doubled for
    each of the three retries, at most 10 s.
    """

    url: str
    secret: str
    seed: str
    records: int = 1000
    batch_size: int = 100
    resources: tuple[tuple[str, str], ...] = DEFAULT_RESOURCES
    accounts: int = 1
    runs: int = 1
    parallel: int = 1
    duplicates: float = 0.0
    reordering: float = 0.0
    changes: float = 0.0
    record_errors: int = 0
    batched_errors: bool = False
    stop_after: float | None = None
    forged: int = 0
    encoding: Literal["hex", "base64"] = "hex"
    with_format: bool = True
    first_backoff_s: float = 0.5

    def share_of(self, total: int, run: int) -> int:
        """Return one run's share of something that all runs have together."""
        return total * (run + 1) // self.runs - total * run // self.runs
