"""The contract of a sink: batches in, write results out.

Functions of users import Batch, Record and RejectedRecord from here: docs/sinks.md documents them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from app.config.routes import Route

# Other texts could quote a record.
REASON_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a delivery, as its route sends it to the sinks.

    ordinal: the position in the delivery, from 0. key: identifies the record in its account and resource.
    version, sequence: order the versions of a record, of which the greatest pair is the current one; aware
    UTC, and a text of fixed width that no other record has. value: a JSON object, free of NUL and lone
    surrogates, with each decimal as an ExactDecimal. json: its text. misfits: codes of the reasons why values
    were not used, by field.
    """

    ordinal: int
    key: str
    version: datetime
    sequence: str
    value: dict[str, Any]
    json: str
    misfits: Mapping[str, str] = field(default_factory=dict)

    @property
    def order(self) -> str:
        """The version and sequence as one text of fixed width: that of a newer version is greater."""
        return f"{self.version.isoformat(timespec='microseconds')} {self.sequence}"


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one delivery and the fields that order their versions.

    received_at: the time the delivery was first stored, kept by a replay; aware UTC.
    version: of the event: the envelope's created_at, or received_at if it has none; aware UTC.
    is_deletion: the records were deleted at the source (`record:deleted`).
    account, job, run: Truto's ids, "" if the delivery names none. first_ordinal: of the slice of a large
    delivery that the records are from, and 0 for its first slice; the same in every attempt.
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
    first_ordinal: int = 0


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A record that a sink cannot store.

    reason: a short stable code, as in REASON_PATTERN. message: contains no record data.
    """

    ordinal: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The result of a batch.

    written: the number of records in the sink, in this version or a newer one.
    misfits: by column, the number of values that became NULL because they did not fit
    its type.
    """

    written: int
    rejected: Sequence[RejectedRecord] = field(default=())
    misfits: Mapping[str, int] = field(default_factory=dict)


class Sink(Protocol):
    """A destination that batches are written to.

    A batch may arrive twice, late, out of order, and from two workers at once. Writing a batch again
    changes nothing, and `write` never replaces a newer version with an older one. When `write` returns, the
    records it counts as written are durable. Records it cannot store are returned as rejected, the rest is
    written. Raises SinkUnavailable if the same call may succeed later, SinkRefused if a person has to correct
    the sink or its route before.
    """

    def write(self, batch: Batch, route: Route) -> WriteResult: ...

    def count(self, account: str) -> int:
        """Return the number of rows or files of an integrated account.

        Raises SinkUnavailable also if the sink cannot count them; the same holds for `erase`.
        """
        ...

    def erase(self, account: str) -> int:
        """Remove the rows or files of an integrated account in small steps; return their number.

        An interrupted call is completed by the next one. Records written later stay.
        """
        ...

    def close(self) -> None: ...
