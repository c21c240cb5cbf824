"""Parsing of a stored body into records, errors and run updates."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from app.store.models import DeadRecord, Delivery, RunUpdate, StoredRecordError
from app.store.reasons import Reason
from app.truto.events import RECORD_ERROR_EVENT, RECORD_EVENT, has_records
from app.truto.record_errors import read_record_errors
from app.truto.records import read_raw_records, read_records
from app.truto.runs import read_run, status_from_event, status_rank


@dataclass(frozen=True, slots=True)
class ParsedDelivery:
    """The contents of one delivery.

    resource, method: matched by routes; the entity and action of an event without them.
    has_records: whether the event is a kind that carries records. records: (ordinal, value) of readable ones.
    reason: why the delivery is quarantined, else "". replaced_characters: characters that became U+FFFD.
    originals: as in RecordBatch.
    accounts: by ordinal, if the records name their accounts; else all records belong to the delivery's.
    body: decompressed. payload_is_record: as in `read_records`.
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
    originals: Mapping[int, str] = field(default_factory=dict)
    accounts: Mapping[int, str] = field(default_factory=dict)
    body: bytes = b""
    payload_is_record: bool = False

    @property
    def record_count(self) -> int:
        """The number of records, readable or not."""
        return len(self.records) + len(self.unreadable)

    def set_accounts(
        self, accounts: Mapping[int, str], *, delivery_id: UUID, now: datetime
    ) -> "ParsedDelivery":
        """Return the delivery with the accounts of its records; a record without one is dead."""
        without = [ordinal for ordinal, _ in self.records if ordinal not in accounts]
        raw = self.read_raw_records(without)
        message = "names no integrated account"
        dead = [
            DeadRecord(delivery_id, "", ordinal, Reason.NO_ACCOUNT, message, raw.get(ordinal, ""), now)
            for ordinal in without
        ]
        return replace(
            self,
            accounts=accounts,
            records=[record for record in self.records if record[0] in accounts],
            unreadable=[*self.unreadable, *dead],
        )

    def read_raw_records(self, ordinals: Sequence[int]) -> Mapping[int, str]:
        """Return the original JSON of these records by ordinal."""
        return read_raw_records(self.body, ordinals, payload_is_record=self.payload_is_record)


def parse_delivery(delivery: Delivery, body: bytes, *, now: datetime) -> ParsedDelivery:
    """Parse a stored body; never raises for unexpected shapes.

    now: the time of death of unreadable records.
    """
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
    if is_batch and not envelope.resource:
        return ParsedDelivery(resource, method, is_batch, run=run, reason=Reason.NO_RESOURCE)
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
        originals=batch.originals,
        body=body,
        payload_is_record=payload_is_record,
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
