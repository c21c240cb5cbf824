"""What a worker finds out about a delivery, as the ledger keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from app.store.models import StateChange


@dataclass(frozen=True, slots=True)
class SinkOutcome:
    """What one sink made of one delivery. written, dead: records; dead counts unreadable ones too."""

    delivery_id: UUID
    sink: str
    state: Literal["done", "failing", "dead"]
    written: int
    dead: int
    reason: str
    message: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class DeadRecord:
    """A record that could not be read (sink "") or that a sink refused. raw: its JSON as it came."""

    delivery_id: UUID
    sink: str
    ordinal: int
    reason: str
    message: str
    raw: str
    died_at: datetime


@dataclass(frozen=True, slots=True)
class StoredRecordError:
    """An error Truto reports about fetching from the customer's account. raw: its JSON as it came."""

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
    """What a delivery says about its run; only a lifecycle event names more than ids.

    first_seen_at: when the delivery came. run: JSON. stopped_at: when it came, if it says that nothing more
    is to come. refused: why, where it was refused.
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
    """All that one delivery leaves in the store."""

    state_change: StateChange
    run: RunUpdate | None = None
    outcomes: Sequence[SinkOutcome] = ()
    dead_records: Sequence[DeadRecord] = ()
    record_errors: Sequence[StoredRecordError] = ()
