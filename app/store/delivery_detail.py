"""One delivery in detail: its row, sink outcomes, dead records and attempts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, literal, select

from app.database.engine import Database
from app.encryption import Keyring
from app.store.delivery_attempts import read_attempts
from app.store.encrypted_columns import build_text_context
from app.store.models import DeliveryAttempt, SinkOutcome
from app.store.results import to_sink_outcome
from app.store.schema import dead_records, deliveries, replays, sink_outcomes


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """The row of a delivery, without its body. stored_bytes: of the compressed body."""

    id: UUID
    received_at: datetime
    event_id: str
    event: str
    webhook_id: str
    environment_id: str
    sync_job_id: str
    sync_job_run_id: str
    integrated_account_id: str
    account_source: str
    run_source: str
    resource: str
    method: str
    created_at: datetime | None
    state: str
    reason: str
    discard_reason: str
    records: int
    replaced_characters: int
    attempts: int
    lost_attempts: int
    duplicates: int
    due_at: datetime
    leased_by: str
    leased_until: datetime | None
    settled_at: datetime | None
    pruned_at: datetime | None
    replay_id: UUID | None
    body_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class DeadRecordCount:
    """Dead records of one delivery with the same sink and reason. sink: "" if they are unreadable."""

    sink: str
    reason: str
    records: int
    discarded: int


@dataclass(frozen=True, slots=True)
class DeliveryDetail:
    """A delivery with its outcomes, dead records and attempts. replayed_at: start of its latest replay.

    attempts: those that are kept, oldest first.
    """

    delivery: DeliveryRow
    outcomes: Sequence[SinkOutcome]
    dead: Sequence[DeadRecordCount]
    replayed_at: datetime | None
    attempts: Sequence[DeliveryAttempt] = ()


@dataclass(frozen=True, slots=True)
class DeadRecordDetail:
    """One dead record. raw: its original JSON; "" if it was not requested."""

    ordinal: int
    sink: str
    reason: str
    message: str
    died_at: datetime
    discard_reason: str
    raw: str


def read_delivery_detail(database: Database, delivery_id: UUID) -> DeliveryDetail | None:
    """Return a delivery in detail; None if it does not exist; raises StoreUnavailable."""
    columns = [deliveries.c[field.name] for field in fields(DeliveryRow) if field.name != "stored_bytes"]
    statement = select(*columns, func.length(deliveries.c.body)).where(deliveries.c.id == delivery_id)
    rows = database.read(statement)
    if not rows:
        return None
    delivery = DeliveryRow(*rows[0])
    group = (dead_records.c.sink, dead_records.c.reason)
    is_discarded = func.count(func.nullif(dead_records.c.discard_reason, ""))
    dead = (
        select(*group, func.count(), is_discarded)
        .where(dead_records.c.delivery_id == delivery_id)
        .group_by(*group)
        .order_by(*group)
    )
    outcomes = (
        select(sink_outcomes).where(sink_outcomes.c.delivery_id == delivery_id).order_by(sink_outcomes.c.sink)
    )
    replayed = (
        database.read(select(replays.c.started_at).where(replays.c.id == delivery.replay_id))
        if delivery.replay_id
        else ()
    )
    return DeliveryDetail(
        delivery,
        outcomes=[to_sink_outcome(row) for row in database.read(outcomes)],
        dead=[DeadRecordCount(*values) for values in database.read(dead)],
        replayed_at=replayed[0][0] if replayed else None,
        attempts=read_attempts(database, delivery_id),
    )


def read_dead_records(
    database: Database, delivery_id: UUID, *, with_raw: bool = False
) -> list[DeadRecordDetail]:
    """Return the dead records of a delivery in the order of the batch; raises StoreUnavailable."""
    columns = [dead_records.c[field.name] for field in fields(DeadRecordDetail) if field.name != "raw"]
    raw = (dead_records.c.raw if with_raw else literal("")).label("raw")
    statement = (
        select(*columns, raw)
        .where(dead_records.c.delivery_id == delivery_id)
        .order_by(dead_records.c.ordinal, dead_records.c.sink)
    )
    return [
        replace(DeadRecordDetail(*row), raw=_decrypt_raw(database.keyring, delivery_id, row))
        for row in database.read(statement)
    ]


def _decrypt_raw(keyring: Keyring, delivery_id: UUID, row: Any) -> str:
    """Return the JSON of a dead record; a note if it is damaged."""
    key = {"delivery_id": delivery_id, "sink": row.sink, "ordinal": row.ordinal}
    try:
        return keyring.decrypt_text(row.raw, build_text_context(dead_records, key))
    except ValueError:
        return "(damaged in the database)"
