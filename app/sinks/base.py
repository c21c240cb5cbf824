"""The contract of a sink: batches in, write results out.

Functions of users import Batch, Record and RejectedRecord from here: docs/sinks.md documents them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

import msgspec

from app.config.routes import Route

# Other texts could quote a record.
REASON_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,39}")


# A Struct is built in a tenth of the time of a frozen dataclass, and the garbage collector need not visit it.
class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of a delivery, as its route sends it to the sinks.

    ordinal: the position in the delivery, from 0. key: identifies the record in its account and resource.
    version, sequence: order the versions of a record, of which the greatest pair is the current one; aware
    UTC, and a text of fixed width that no other record has. value: a JSON object, free of NUL and lone
    surrogates, with each decimal as an ExactDecimal. json_bytes: its JSON in UTF-8. misfits: codes of the
    reasons why values were not used, by field.
    """

    ordinal: int
    key: str
    version: datetime
    sequence: str
    value: dict[str, Any]
    json_bytes: bytes
    misfits: Mapping[str, str] = {}

    @property
    def json(self) -> str:
        """The value as JSON text."""
        return self.json_bytes.decode()

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


class _CommonSink(Protocol):
    """The part that all sinks share. Raises as `Sink` does."""

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


class Sink(_CommonSink, Protocol):
    """A database that batches are written to, one by one.

    A batch may arrive twice, late, out of order, and from two workers at once. Writing a batch again
    changes nothing, and `write` never replaces a newer version with an older one. When `write` returns, the
    records it counts as written are durable. Records it cannot store are returned as rejected, the rest is
    written. Raises SinkUnavailable if the same call may succeed later, SinkRefused if a person has to correct
    the sink or its route before.
    """

    def write(self, batch: Batch, route: Route) -> WriteResult: ...


@runtime_checkable
class JoiningSink(Sink, Protocol):
    """A sink that writes the batches of several deliveries together, for less than one by one."""

    def write_batches(self, batches: Sequence[Batch], route: Route) -> Sequence[WriteResult]:
        """Write batches of one resource, all deletions or none; return a result for each, in their order.

        After an exception, any of them may have been written, as after one of `write`.
        """
        ...


class LoadWriter(Protocol):
    """The writing of one load in one attempt. Raises as `Sink` does.

    Until `commit`, no reader sees anything of the load.
    """

    def add(self, batch: Batch, route: Route) -> WriteResult:
        """Add a batch. Its records are durable after `commit`, except for the rejected ones."""
        ...

    def prepare(self) -> str:
        """Return the text with which `commit` of a later attempt removes what this one leaves."""
        ...

    def commit(self, *, earlier: str) -> None:
        """Make the load durable and visible. Repeated, it replaces the load with itself.

        earlier: the text of `prepare` in an earlier attempt, which may have been committed in part; "" for
        none.
        """
        ...

    def close(self) -> None:
        """Remove temporary files; never raises."""
        ...


@runtime_checkable
class LoadSink(_CommonSink, Protocol):
    """A sink that writes many deliveries together, in loads.

    The same load is written again until it succeeds once, with the same id and the same batches in the same
    order, perhaps by another worker. Only an erasure or a changed route may leave records out.
    """

    def begin_load(self, load_id: UUID) -> LoadWriter: ...


AnySink = Sink | LoadSink
