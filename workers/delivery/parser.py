"""What a delivery's body holds, by the kind of its event."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from app.store.models import DeadRecord, Delivery, RunUpdate, StoredRecordError
from app.store.reasons import Reason
from app.truto.events import RECORD_ERROR_EVENT, RECORD_EVENT, has_records
from app.truto.record_errors import read_record_errors
from app.truto.records import read_raw_records, read_records
from app.truto.runs import read_run, status_from_event, status_rank


def _no_raw_records(_ordinals: Sequence[int]) -> Mapping[int, str]:
    return {}


@dataclass(frozen=True, slots=True)
class ParsedDelivery:
    """A delivery, read.

    resource, method: what routes match on; of an event that is no batch its entity and action.
    records: (ordinal, value) of each record that could be read. unreadable: the others.
    replaced: characters made U+FFFD.
    reason: why nothing can be made of it, else "". raw: the JSON of records by ordinal, as it came.
    """

    resource: str
    method: str
    has_records: bool = False
    records: Sequence[tuple[int, Any]] = ()
    unreadable: Sequence[DeadRecord] = ()
    record_errors: Sequence[StoredRecordError] = ()
    run: RunUpdate | None = None
    reason: str = ""
    is_deletion: bool = False
    replaced_characters: int = 0
    read_raw_records: Callable[[Sequence[int]], Mapping[int, str]] = _no_raw_records

    @property
    def record_count(self) -> int:
        """How many records came, readable or not."""
        return len(self.records) + len(self.unreadable)


def parse_delivery(delivery: Delivery, body: bytes, *, now: datetime) -> ParsedDelivery:
    """Read a stored body; never raises for odd shapes. now: when unreadable records died."""
    envelope = delivery.envelope
    entity, _, action = envelope.event.partition(":")
    resource, method = envelope.resource or entity, envelope.method or action
    run = _build_run_update(delivery, body, action) if entity == "sync_job_run" else None
    if envelope.event == RECORD_ERROR_EVENT:
        return ParsedDelivery(resource, method, record_errors=_parse_record_errors(delivery, body), run=run)
    is_batch = has_records(envelope.event)
    payload_is_record = envelope.event != RECORD_EVENT
    batch = read_records(body, payload_is_record=payload_is_record)
    if batch is None:
        return ParsedDelivery(
            resource, method, is_batch, run=run, reason=Reason.NO_RECORDS if is_batch else ""
        )
    dead = [
        DeadRecord(delivery.id, "", record.ordinal, record.reason, "cannot be read as JSON", record.raw, now)
        for record in batch.unreadable
    ]
    return ParsedDelivery(
        resource,
        method,
        is_batch,
        records=batch.records,
        unreadable=dead,
        run=run,
        is_deletion=envelope.event == "record:deleted",
        replaced_characters=batch.replaced_characters,
        read_raw_records=partial(read_raw_records, body, payload_is_record=payload_is_record),
    )


def _build_run_update(delivery: Delivery, body: bytes, action: str) -> RunUpdate | None:
    envelope = delivery.envelope
    if not envelope.sync_job_run_id:
        return None
    update = RunUpdate(
        sync_job_run_id=envelope.sync_job_run_id,
        sync_job_id=envelope.sync_job_id,
        integrated_account_id=envelope.integrated_account_id,
        environment_id=envelope.environment_id,
        first_seen_at=delivery.received_at,
        webhook_id=envelope.webhook_id,
    )
    if envelope.event in (RECORD_EVENT, RECORD_ERROR_EVENT):
        return update
    try:
        run = read_run(json.loads(body).get("payload"))
    except (ValueError, RecursionError, AttributeError):
        run = None
    status = status_from_event(action, run)
    return replace(
        update,
        status=status,
        status_at=envelope.created_at or delivery.received_at,
        status_rank=status_rank(status),
        stopped_at=delivery.received_at if status == "stopped" else None,
        run=run.model_dump_json() if run else None,
    )


def _parse_record_errors(delivery: Delivery, body: bytes) -> Sequence[StoredRecordError]:
    return [
        StoredRecordError(
            delivery_id=delivery.id,
            ordinal=error.ordinal,
            sync_job_run_id=delivery.envelope.sync_job_run_id,
            resource=error.resource,
            method=error.method,
            remote_status=error.remote_status,
            message=error.message,
            raw=error.raw,
        )
        for error in read_record_errors(body)
    ]
