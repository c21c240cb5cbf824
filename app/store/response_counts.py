"""Counts of responses by status and cause, in periods of ten minutes.

They show requests that are not stored, such as those with a wrong signature, and nothing of their contents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select

from app.database.engine import Database
from app.database.upsert import insert_into
from app.errors import SignatureFault
from app.store.schema import response_counts
from app.truto.target_url import WEBHOOK_PATH

_PERIOD_S = 600
_KEPT = timedelta(days=7)
# The statuses of responses to requests with a valid signature that were stored.
STORED = ("accepted", "duplicate", "quarantined", "refused")
# Their sender has the form of Truto's signature, or a secret: unlike those of a scanner.
_ALARMING_FAULTS = (SignatureFault.WRONG, SignatureFault.OTHER_WEBHOOK, SignatureFault.OUTSIDE_WINDOW)
_MEANINGS = {
    ("unauthorized", SignatureFault.MISSING): "the X-Truto-Signature header is missing",
    ("unauthorized", SignatureFault.MALFORMED): "the X-Truto-Signature header is malformed",
    ("unauthorized", SignatureFault.WRONG): "the signature matches no secret in TRUTO_WEBHOOK_SECRET",
    ("unauthorized", SignatureFault.OTHER_WEBHOOK): (
        "signed with a secret that TRUTO_WEBHOOK_SECRET pins to another webhook"
    ),
    ("unauthorized", SignatureFault.OUTSIDE_WINDOW): "signed, but not within REPLAY_WINDOW_S",
    ("too_large", ""): "the body is larger than MAX_BODY_BYTES",
    ("incomplete", ""): "the body stalled or ended too early",
    ("unavailable", ""): "neither the database nor Redis could store the body",
    ("unavailable", "overloaded"): "no memory was free for a large body",
    ("rejected_once", ""): "stored, and rejected once for `rapidbridge webhook probe`",
    ("failed", ""): "the receiver failed; find request.failed in its log",
    ("not_found", ""): f"webhooks are received by POST {WEBHOOK_PATH}",
    ("method_not_allowed", ""): f"webhooks are received by POST {WEBHOOK_PATH}",
}
# All answers that the receiver gives, by status and cause.
KNOWN_ANSWERS = (*((status, "") for status in STORED), *_MEANINGS)


@dataclass(frozen=True, slots=True)
class ResponseCount:
    """The responses with a status and a cause, "" for most. last_at: when the newest was counted."""

    status: str
    cause: str
    number: int
    last_at: datetime

    @property
    def is_alarming_refusal(self) -> bool:
        """Whether these requests may be Truto's, refused because of a wrong secret or clock."""
        return self.status == "unauthorized" and self.cause in _ALARMING_FAULTS

    @property
    def meaning(self) -> str:
        """The cause of the response in words."""
        return _MEANINGS.get((self.status, self.cause), self.cause or self.status)


class ResponseCounts:
    """The counts of all web processes. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, numbers: Mapping[tuple[str, str], int], *, now: datetime) -> None:
        """Add numbers of responses by (status, cause); delete counts older than a week."""
        period_start = datetime.fromtimestamp(now.timestamp() // _PERIOD_S * _PERIOD_S, UTC)
        insert = insert_into(self._database.dialect.name, response_counts)
        statement = insert.on_conflict_do_update(
            index_elements=list(response_counts.primary_key),
            set_={
                "number": response_counts.c.number + insert.excluded.number,
                "last_at": insert.excluded.last_at,
            },
        )
        # In order: two processes that update the same rows in another order would deadlock.
        rows = [
            {"period_start": period_start, "status": status, "cause": cause, "number": number, "last_at": now}
            for (status, cause), number in sorted(numbers.items())
        ]
        is_old = response_counts.c.period_start < now - _KEPT
        # One transaction: the caller adds the numbers again if the delete fails.
        with self._database.transaction() as connection:
            connection.execute(statement.values(rows))
            connection.execute(delete(response_counts).where(is_old))

    def list_since(self, since: datetime) -> Sequence[ResponseCount]:
        """Return the sums of the periods that end after a time, by status and cause."""
        columns = (response_counts.c.status, response_counts.c.cause)
        statement = (
            select(*columns, func.sum(response_counts.c.number), func.max(response_counts.c.last_at))
            .where(response_counts.c.period_start > since - timedelta(seconds=_PERIOD_S))
            .group_by(*columns)
            .order_by(*columns)
        )
        return [
            ResponseCount(status, cause, int(number), last_at)
            for status, cause, number, last_at in self._database.read(statement)
        ]


def find_last_stored(counts: Sequence[ResponseCount]) -> datetime | None:
    """Return when the newest signed request was stored; None if there was none."""
    return max((count.last_at for count in counts if count.status in STORED), default=None)
