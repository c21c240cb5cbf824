"""Deliveries, their states and results, and run updates."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from uuid import UUID

from app.truto.events import Envelope


class DeliveryState(StrEnum):
    """The states of a delivery. All but the first are final until a replay or an operator changes them."""

    PENDING = "pending"
    SETTLED = "settled"
    UNROUTED = "unrouted"
    DEAD = "dead"
    QUARANTINED = "quarantined"
    REFUSED = "refused"
    LATE = "late"
    DISCARDED = "discarded"


class DeliveryPriority(IntEnum):
    """The order in which pending deliveries are enqueued: live ones first, except for a small share."""

    LIVE = 0
    REPLAYED = 1


class SinkOutcomeState(StrEnum):
    """The states of a delivery in one sink. `failing` is tried again; its reason may be `in_progress`."""

    DONE = "done"
    FAILING = "failing"
    DEAD = "dead"


class AttributionSource(StrEnum):
    """The places where a worker finds the account or the run of a delivery that names none."""

    RUN = "run"
    WEBHOOK = "webhook"
    RECORD = "record"
    OPEN_RUN = "open_run"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class IncomingDelivery:
    """A verified body on its way into the inbox.

    digest: 32 bytes that differ between bodies. envelope: empty if the body is unreadable. id: only for an
    imported delivery, its id in the inbox that exported it. traceparent: of the span that accepted it; ""
    without tracing. is_due: the feeder enqueues it, and not the process that stores it.
    """

    body: bytes
    digest: bytes
    received_at: datetime
    envelope: Envelope = field(default_factory=Envelope)
    state: DeliveryState = DeliveryState.PENDING
    reason: str = ""
    id: UUID | None = None
    traceparent: str = ""
    is_due: bool = False

    @property
    def delivery_id(self) -> UUID:
        """The id of the row in the inbox."""
        return self.id or delivery_id_for(self.envelope.event_id, self.envelope.created_at, self.digest)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The result of storing a delivery: committed, a duplicate, or spooled.

    refusal_reason: None if it was accepted; for a duplicate, the decision about the first copy.
    """

    delivery_id: UUID
    is_duplicate: bool
    is_spooled: bool = False
    refusal_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One stored delivery, without its body.

    body_bytes: uncompressed. attempts: including this one. lost_attempts: consecutive workers that died
    while processing it. reason: of its last attempt. traceparent: of the span that accepted it; "" without
    tracing. is_replay: a replay requeued it.
    """

    id: UUID
    received_at: datetime
    envelope: Envelope
    body_bytes: int
    attempts: int
    lost_attempts: int = 0
    reason: str = ""
    traceparent: str = ""
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Attribution:
    """The account and the run of a delivery, and the places where they were found.

    account, run: "" if unknown. sources: an AttributionSource, or "" if the event itself names the id.
    """

    account: str
    run: str
    account_source: str = ""
    run_source: str = ""


@dataclass(frozen=True, slots=True)
class StateChange:
    """The new state of a delivery after an attempt. due_at: next attempt of a pending delivery.

    records: None keeps their number, because the attempt has not read the body.
    replaced_characters: characters of its records that no database can store; they became U+FFFD.
    attribution: None if the event itself names its account and run. is_attempt: False if it does not count as
    an attempt.
    """

    delivery_id: UUID
    state: DeliveryState
    records: int | None
    reason: str
    due_at: datetime
    replaced_characters: int = 0
    attribution: Attribution | None = None
    is_attempt: bool = True


def delivery_id_for(event_id: str, created_at: datetime | None, digest: bytes) -> UUID:
    """Return the id for an event and a body: the same body always gets the same id.

    A version 8 UUID that begins with the event's time in ms, so that new ids are adjacent in an index.
    """
    time_ms = max(0, (created_at - _EPOCH) // timedelta(milliseconds=1)) if created_at else 0
    name = hashlib.sha256(event_id.encode(errors="surrogatepass") + b"\0" + digest).digest()
    number = (time_ms & (1 << 48) - 1) << 80 | int.from_bytes(name[:10])
    number = number & ~(0xF << 76) | 0x8 << 76
    return UUID(int=number & ~(0x3 << 62) | 0x2 << 62)


@dataclass(frozen=True, slots=True)
class SinkOutcome:
    """The result of one delivery in one sink.

    written, dead, filtered: numbers of records; dead includes unreadable. progress: where a worker continues
    a large delivery; "" for all others. held_scope: of the sink's state that holds the delivery; None if it
    is not held. held_received_at: of a held delivery.
    """

    delivery_id: UUID
    sink: str
    state: SinkOutcomeState
    written: int
    dead: int
    reason: str
    message: str
    updated_at: datetime
    progress: str = ""
    held_scope: str | None = None
    held_received_at: datetime | None = None
    filtered: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """An attempt that did not settle its delivery, or that followed such an attempt.

    attempt: its number since the last replay. worker: the owner of the lease. started_at: None if the worker
    died; finished_at is then the time of the next lease. state: of the delivery afterwards. message: of the
    sinks that failed. due_at: of the next attempt; None if there is none.
    """

    delivery_id: UUID
    attempt: int
    worker: str
    started_at: datetime | None
    finished_at: datetime
    state: DeliveryState
    reason: str = ""
    message: str = ""
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeadRecord:
    """A record that is unreadable (sink "") or that a sink rejected. raw: its original JSON."""

    delivery_id: UUID
    sink: str
    ordinal: int
    reason: str
    message: str
    raw: str
    died_at: datetime


@dataclass(frozen=True, slots=True)
class StoredRecordError:
    """An error that Truto reports about fetching from the customer's account. raw: its original JSON."""

    delivery_id: UUID
    ordinal: int
    sync_job_run_id: str
    resource: str
    method: str
    remote_status: int | None
    message: str
    raw: str


@dataclass(frozen=True, slots=True)
class RunUpdate:
    """The facts about a run in one delivery. Events other than lifecycle events have ids only.

    first_seen_at: the time of the delivery. run: JSON. stopped_at: the time of a stop or refusal.
    refusal_reason: "" if the run was not refused.
    """

    sync_job_run_id: str
    sync_job_id: str
    integrated_account_id: str
    environment_id: str
    first_seen_at: datetime
    webhook_id: str = ""
    status: str = ""
    status_at: datetime | None = None
    status_rank: int = -1
    run: str | None = None
    stopped_at: datetime | None = None
    refusal_reason: str = ""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """Everything that one attempt at a delivery writes to the store.

    restarted_sinks: sinks that get all records again, so that dead records of earlier attempts are obsolete.
    attempt: None for a delivery that its first attempt settles, and for a large one that is continued.
    """

    state_change: StateChange
    run: RunUpdate | None = None
    outcomes: Sequence[SinkOutcome] = ()
    dead_records: Sequence[DeadRecord] = ()
    record_errors: Sequence[StoredRecordError] = ()
    restarted_sinks: Sequence[str] = ()
    attempt: DeliveryAttempt | None = None


@dataclass(frozen=True, slots=True)
class PrunableDelivery:
    """A delivery whose body may be pruned. body_bytes: uncompressed; stored_bytes: compressed."""

    id: UUID
    received_at: datetime
    body_bytes: int
    stored_bytes: int
