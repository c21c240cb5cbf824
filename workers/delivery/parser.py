"""Parsing of a stored body into records, errors and run updates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from app.clock import utc_now
from app.config.routes import RoutedEvent
from app.store.models import DeadRecord, Delivery, RunUpdate, StoredRecordError
from app.store.reasons import Reason
from app.truto.events import (
    MAX_NAME_CHARS,
    RECORD_ERROR_EVENT,
    RECORD_EVENT,
    Envelope,
    has_records,
    read_payload,
)
from app.truto.id_places import read_id
from app.truto.record_errors import read_record_errors
from app.truto.record_path import find_value
from app.truto.record_slices import RecordSlice, RecordSlices, find_slices
from app.truto.runs import read_run, status_from_event, status_rank

# A job saves them in one transaction.
MAX_RECORD_ERRORS = 5000


@dataclass(frozen=True, slots=True)
class ParsedSlice:
    """Consecutive records of a delivery.

    records: (ordinal, value) of the readable ones. next_ordinal: of the record after these. is_last: there is
    none. accounts: by ordinal, if the records name their accounts; else all records belong to the delivery's.
    """

    source: RecordSlice
    records: Sequence[tuple[int, Any]]
    unreadable: Sequence[DeadRecord]
    next_ordinal: int
    is_last: bool
    replaced_characters: int = 0
    accounts: Mapping[int, str] = field(default_factory=dict)

    def find_accounts(self, path: str) -> Mapping[int, str]:
        """Return the accounts that records name at a path, by ordinal."""
        originals = self.source.batch.originals
        return {
            ordinal: account
            for ordinal, value in self.records
            if (account := read_id(find_value(value, path)))
            and len(account) <= MAX_NAME_CHARS
            # Two accounts that differ only in a replaced character must not become one.
            and not ("\ufffd" in account and ordinal in originals)
        }

    def set_accounts(self, path: str, *, delivery_id: UUID, now: datetime) -> "ParsedSlice":
        """Return the slice with the accounts of its records; a record without one is dead."""
        accounts = self.find_accounts(path)
        without = [ordinal for ordinal, _ in self.records if ordinal not in accounts]
        raw = self.source.read_raw_records(without)
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

    def split(self, max_records: int) -> "Iterator[ParsedSlice]":
        """Yield the slice in parts with so many readable records at most."""
        unreadable = self.unreadable
        for start in range(0, len(self.records) or 1, max_records):
            records = self.records[start : start + max_records]
            is_end = start + max_records >= len(self.records)
            next_ordinal = self.next_ordinal if is_end else records[-1][0] + 1
            yield replace(
                self,
                records=records,
                unreadable=[dead for dead in unreadable if dead.ordinal < next_ordinal],
                next_ordinal=next_ordinal,
                is_last=self.is_last and is_end,
                replaced_characters=self.replaced_characters if is_end else 0,
            )
            unreadable = [dead for dead in unreadable if dead.ordinal >= next_ordinal]


@dataclass(frozen=True, slots=True)
class ParsedDelivery:
    """The contents of one delivery.

    resource, method: matched by routes; the entity and action of an event without them.
    has_records: whether the event is a kind that carries records. record_count: readable or not.
    reason: why the delivery is quarantined, else "". account_path: of the account in each record; "" if all
    records belong to the delivery's. slices: None if the delivery has no records. event_body: of an event
    that carries none; a route may write its payload as a record. has_more_errors: a later job reads further
    record errors.
    """

    delivery_id: UUID
    resource: str
    method: str
    has_records: bool = False
    record_count: int = 0
    record_errors: Sequence[StoredRecordError] = ()
    run: RunUpdate | None = None
    reason: str = ""
    is_deletion: bool = False
    account_path: str = ""
    slices: RecordSlices | None = None
    event_body: bytes = b""
    has_more_errors: bool = False

    @property
    def is_large(self) -> bool:
        """Whether the records are written in several slices."""
        return self.slices is not None and not self.slices.is_single

    @property
    def replaced_characters(self) -> int:
        """As in RecordBatch; 0 for a large delivery, whose records are not all read yet."""
        return self.slices.replaced_characters if self.slices else 0

    def describe_event(self, envelope: Envelope) -> RoutedEvent:
        """Return the fields that routes match. envelope: with the account of the delivery."""
        return replace(
            describe_envelope(envelope),
            resource=self.resource,
            method=self.method,
            has_records=self.has_records,
        )

    def read_slices(self, *, first_ordinal: int = 0) -> Iterator[ParsedSlice]:
        """Parse the records from an ordinal on, slice by slice."""
        now = utc_now()
        for source in self.slices.read(first_ordinal=first_ordinal) if self.slices else ():
            batch = source.batch
            unreadable = [
                DeadRecord(self.delivery_id, "", r.ordinal, r.reason, "cannot be read as JSON", r.raw, now)
                for r in batch.unreadable
                if r.ordinal >= first_ordinal
            ]
            # The only slice is read from its start.
            has_others = source.first_ordinal < first_ordinal
            records = [r for r in batch.records if r[0] >= first_ordinal] if has_others else batch.records
            parsed = ParsedSlice(
                source,
                records,
                unreadable,
                next_ordinal=source.next_ordinal,
                is_last=source.is_last,
                replaced_characters=batch.replaced_characters,
            )
            if self.account_path:
                parsed = parsed.set_accounts(self.account_path, delivery_id=self.delivery_id, now=now)
            yield parsed

    def read_first_unreadable(self) -> Sequence[DeadRecord]:
        """Return the unreadable records of the first slice: enough for a delivery that no sink receives."""
        return next((parsed.unreadable for parsed in self.read_slices()), ())


def describe_envelope(envelope: Envelope) -> RoutedEvent:
    """Return the fields that routes match, as far as they are known without the body."""
    return RoutedEvent(
        event=envelope.event,
        resource=envelope.resource,
        method=envelope.method,
        account=envelope.integrated_account_id,
        environment=envelope.environment_id,
        webhook=envelope.webhook_id,
        has_records=has_records(envelope.event),
    )


def parse_delivery(delivery: Delivery, body: bytes, *, first_error: int = 0) -> ParsedDelivery:
    """Parse a stored body; never raises for unexpected shapes.

    first_error: the ordinal of the first record error to read.
    """
    envelope = delivery.envelope
    entity, _, action = envelope.event.partition(":")
    resource, method = envelope.resource or entity, envelope.method or action
    run = _build_run_update(delivery, body, action) if entity == "sync_job_run" else None
    parsed = ParsedDelivery(delivery.id, resource, method, run=run)
    if envelope.event == RECORD_ERROR_EVENT:
        errors = list(islice(_parse_record_errors(delivery, body, first_error), MAX_RECORD_ERRORS + 1))
        has_more = len(errors) > MAX_RECORD_ERRORS
        return replace(parsed, record_errors=errors[:MAX_RECORD_ERRORS], has_more_errors=has_more)
    if not has_records(envelope.event):
        # Few routes name such an event: its payload is read only for one that does.
        return replace(parsed, event_body=body)
    parsed = replace(parsed, has_records=True)
    slices = find_slices(body, payload_is_record=envelope.event != RECORD_EVENT)
    if slices is None:
        return replace(parsed, reason=Reason.NO_RECORDS)
    if not envelope.resource:
        return replace(parsed, reason=Reason.NO_RESOURCE)
    is_deletion = envelope.event == "record:deleted"
    return replace(parsed, record_count=slices.count, is_deletion=is_deletion, slices=slices)


def read_payload_as_record(parsed: ParsedDelivery) -> ParsedDelivery:
    """Return an event that carries no records with its payload as the only one."""
    slices = find_slices(parsed.event_body, payload_is_record=True) if parsed.event_body else None
    return replace(parsed, record_count=slices.count, slices=slices) if slices else parsed


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
    run = read_run(read_payload(body))
    status = status_from_event(action, run)
    return replace(
        update,
        status=status,
        status_at=envelope.created_at or delivery.received_at,
        status_rank=status_rank(status),
        stopped_at=delivery.received_at if status == "stopped" else None,
        run=run.model_dump_json() if run else None,
    )


def _parse_record_errors(delivery: Delivery, body: bytes, first_ordinal: int) -> Iterator[StoredRecordError]:
    return (
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
        for error in read_record_errors(body, first_ordinal=first_ordinal)
    )
