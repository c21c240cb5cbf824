"""What a delivery's body holds, by the kind of its event."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.store.facts import DeadRecord, RecordErrorRow, RunSeen
from app.store.inbox import Delivery
from app.truto.events import carries_records
from app.truto.record_errors import read_record_errors
from app.truto.records import RecordBatch, raw_records, read_payload, read_records
from app.truto.runs import rank, read_run, status_of


@dataclass(frozen=True, slots=True)
class Content:
    """A delivery, read.

    resource, method: what routes match on; of an event that is no batch its entity and action.
    records: (ordinal, value) of each record that could be read. size: all records, readable or not.
    reason: why nothing can be made of it, else "". raw: the JSON of records by ordinal, as it came.
    """

    resource: str
    method: str
    carries_records: bool
    records: Sequence[tuple[int, Any]] = ()
    unreadable: Sequence[DeadRecord] = ()
    record_errors: Sequence[RecordErrorRow] = ()
    run: RunSeen | None = None
    reason: str = ""
    is_deletion: bool = False
    raw: Callable[[Sequence[int]], Mapping[int, str]] = lambda _ordinals: {}

    @property
    def size(self) -> int:
        return len(self.records) + len(self.unreadable)


def read_content(delivery: Delivery, body: bytes, *, now: datetime) -> Content:
    """Read a stored body; never raises for odd shapes."""
    entity, _, action = delivery.event.partition(":")
    run = _run_seen(delivery, body, action) if entity == "sync_job_run" else None
    if carries_records(delivery.event):
        return _batch(delivery, body, run, read_records(body), now)
    if delivery.event == "sync_job_run:record_error":
        return Content(
            delivery.resource,
            delivery.method,
            carries_records=False,
            record_errors=_record_errors(delivery, body),
            run=run,
        )
    return _other(delivery, body, run, now)
