"""What a delivery's body holds, by the kind of its event."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from app.store.facts import DeadRecord, RecordErrorRow, RunSeen
from app.store.models import Delivery
from app.truto.events import BATCH, ERRORS, carries_records
from app.truto.record_errors import read_record_errors
from app.truto.records import raw_records, read_records
from app.truto.runs import rank, read_run, status_of


def _none(_ordinals: Sequence[int]) -> Mapping[int, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Content:
    """A delivery, read.

    resource, method: what routes match on; of an event that is no batch its entity and action.
    records: (ordinal, value) of each record that could be read. unreadable: the others.
    replaced: characters made U+FFFD.
    reason: why nothing can be made of it, else "". raw: the JSON of records by ordinal, as it came.
    """

    resource: str
    method: str
    carries_records: bool = False
    records: Sequence[tuple[int, Any]] = ()
    unreadable: Sequence[DeadRecord] = ()
    record_errors: Sequence[RecordErrorRow] = ()
    run: RunSeen | None = None
    reason: str = ""
    is_deletion: bool = False
    replaced: int = 0
    raw: Callable[[Sequence[int]], Mapping[int, str]] = _none

    @property
    def size(self) -> int:
        """How many records came, readable or not."""
        return len(self.records) + len(self.unreadable)


def read_content(delivery: Delivery, body: bytes, *, now: datetime) -> Content:
    """Read a stored body; never raises for odd shapes. now: when unreadable records died."""
    entity, _, action = delivery.event.partition(":")
    resource, method = delivery.resource or entity, delivery.method or action
    run = _run_seen(delivery, body, action) if entity == "sync_job_run" else None
    if delivery.event == ERRORS:
        return Content(resource, method, record_errors=_record_errors(delivery, body), run=run)
    is_batch = carries_records(delivery.event)
    payload_is_record = delivery.event != BATCH
    batch = read_records(body, payload_is_record=payload_is_record)
    if batch is None:
        return Content(resource, method, is_batch, run=run, reason="no_records" if is_batch else "")
    dead = [
        DeadRecord(delivery.id, "", each.ordinal, each.reason, "cannot be read as JSON", each.raw, now)
        for each in batch.unreadable
    ]
    return Content(
        resource,
        method,
        is_batch,
        records=batch.records,
        unreadable=dead,
        run=run,
        is_deletion=delivery.event == "record:deleted",
        replaced=batch.replaced,
        raw=partial(raw_records, body, payload_is_record=payload_is_record),
    )


def _run_seen(delivery: Delivery, body: bytes, action: str) -> RunSeen | None:
    if not delivery.sync_job_run_id:
        return None
    seen = RunSeen(
        sync_job_run_id=delivery.sync_job_run_id,
        sync_job_id=delivery.sync_job_id,
        integrated_account_id=delivery.integrated_account_id,
        environment_id=delivery.environment_id,
        first_seen_at=delivery.received_at,
        webhook_id=delivery.webhook_id,
    )
    if delivery.event in (BATCH, ERRORS):
        return seen
    try:
        run = read_run(json.loads(body).get("payload"))
    except (ValueError, RecursionError, AttributeError):
        run = None
    status = status_of(action, run)
    return replace(
        seen,
        status=status,
        status_at=delivery.created_at or delivery.received_at,
        status_rank=rank(status),
        stopped_at=delivery.received_at if status == "stopped" else None,
        run=run.model_dump_json() if run else None,
    )


def _record_errors(delivery: Delivery, body: bytes) -> Sequence[RecordErrorRow]:
    return [
        RecordErrorRow(
            delivery_id=delivery.id,
            ordinal=error.ordinal,
            sync_job_run_id=delivery.sync_job_run_id,
            resource=error.resource,
            method=error.method,
            remote_status=error.remote_status,
            message=error.message,
            raw=error.raw,
        )
        for error in read_record_errors(body)
    ]
