"""What a sink is: the one seam between a delivery's records and a store."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from app.config.routes import Route


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a delivery.

    ordinal: its place in the delivery, from 0. value: any JSON, already free of NUL and lone surrogates.
    """

    ordinal: int
    value: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one delivery, with all that tells their versions apart.

    received_at: when the delivery was first stored, kept by a replay; aware UTC.
    version: the envelope's created_at, or received_at where it has none; aware UTC.
    is_deletion: the records say what was deleted (`record:deleted`).
    account, job, run: Truto's ids, "" where the delivery names none.
    """

    delivery_id: UUID
    received_at: datetime
    version: datetime
    resource: str
    method: str
    account: str
    job: str
    run: str
    records: Sequence[Record]
    is_deletion: bool = False


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """One record that a sink cannot hold: `reason` is a short stable word, `message` never holds its data."""

    ordinal: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a batch: `written` records are in the sink (or an equal or newer version of them is)."""

    written: int
    rejected: Sequence[RejectedRecord] = field(default=())


class Sink(Protocol):
    """A store that takes batches.

    A batch may come twice, late, out of order, and from two workers at once: `write` leaves the sink as if it
    had come once, and never puts an older version over a newer one. When `write` returns, what it counts as
    written is durable. Records it cannot hold are returned as refused, the rest is written.
    Raises SinkUnavailable where the same call may succeed later, SinkRefused where it never will.
    """

    def write(self, batch: Batch, route: Route) -> WriteResult: ...

    def count(self, account: str) -> int:
        """Return how many rows or files there are of an integrated account."""
        ...

    def erase(self, account: str) -> int:
        """Remove all there is of an integrated account, bit by bit; return how many rows or files.

        Broken off, it goes on when called again. What is written later stays.
        """
        ...

    def close(self) -> None: ...
