"""One delivery: on its way in, stored, and judged."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

DeliveryState = Literal[
    "pending", "settled", "unrouted", "dead", "quarantined", "refused", "late", "discarded"
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class IncomingDelivery:
    """A verified body on its way into the inbox; what the envelope does not name is "".

    digest: tells this body from any other. id: which it had in another inbox, if it comes from there.
    """

    body: bytes
    digest: bytes
    received_at: datetime
    state: DeliveryState
    reason: str = ""
    event_id: str = ""
    event: str = ""
    webhook_id: str = ""
    environment_id: str = ""
    sync_job_id: str = ""
    sync_job_run_id: str = ""
    integrated_account_id: str = ""
    resource: str = ""
    method: str = ""
    created_at: datetime | None = None
    id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What `put` made of an arrival: committed now, known from before, or spooled until it can be.

    refused: why it was refused, where it was; of one that is known from before, when it first came.
    """

    delivery_id: UUID
    is_duplicate: bool
    is_spooled: bool = False
    refusal_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One stored delivery, without its body.

    body_bytes: of its body as it came. attempts: how often a worker took it up, this time included.
    lost_attempts: how often in a row the worker never came back.
    """

    id: UUID
    received_at: datetime
    event_id: str
    event: str
    webhook_id: str
    environment_id: str
    sync_job_id: str
    sync_job_run_id: str
    integrated_account_id: str
    resource: str
    method: str
    created_at: datetime | None
    body_bytes: int
    attempts: int
    lost_attempts: int = 0


@dataclass(frozen=True, slots=True)
class StateChange:
    """How a worker leaves a delivery; a pending one is due again at `due_at`.

    replaced: characters of its records that no database holds, and which became U+FFFD.
    """

    delivery_id: UUID
    state: DeliveryState
    records: int
    reason: str
    due_at: datetime
    replaced_characters: int = 0


def delivery_id_for(event_id: str, created_at: datetime | None, digest: bytes) -> UUID:
    """Name a delivery by its event's id and its body's digest: the same body always gets the same id.

    A version 8 UUID that begins with the event's time in ms: ids made together lie together in an index.
    """
    time_ms = max(0, (created_at - _EPOCH) // timedelta(milliseconds=1)) if created_at else 0
    name = hashlib.sha256(event_id.encode(errors="surrogatepass") + b"\0" + digest).digest()
    number = (time_ms & (1 << 48) - 1) << 80 | int.from_bytes(name[:10])
    number = number & ~(0xF << 76) | 0x8 << 76
    return UUID(int=number & ~(0x3 << 62) | 0x2 << 62)
