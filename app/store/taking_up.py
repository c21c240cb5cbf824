"""What being replayed does to deliveries, as parts of the caller's transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, select, update

from app.store.schema import dead_records, deliveries, sink_outcomes

# Of deliveries that are named: see `app.store.pending`.
_IS_FINISHED = deliveries.c.state.concat("") != "pending"
HAS_BODY = deliveries.c.pruned_at.is_(None)


def lock_finished(connection: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Return those that are at rest and still have a body; keep them so until the transaction ends."""
    statement = (
        select(deliveries.c.id)
        .where(deliveries.c.id.in_(ids), _IS_FINISHED, HAS_BODY)
        # In one order, so that two replays of the same deliveries cannot deadlock.
        .order_by(deliveries.c.id)
        .with_for_update()
    )
    return list(connection.execute(statement).scalars())


def mark_pending(
    connection: Connection,
    ids: Sequence[UUID],
    *,
    replay_id: UUID,
    now: datetime,
    envelope_columns: Mapping[str, Any] | None = None,
) -> None:
    """Make deliveries as pending as if they had just come. told: what is known of them only now."""
    statement = update(deliveries).where(deliveries.c.id.in_(ids))
    again = statement.values(
        state="pending",
        settled_at=None,
        due_at=now,
        leased_until=None,
        leased_by="",
        lost_attempts=0,
        # Not 0: of a first attempt, no worker asks which sinks have it.
        attempts=1,
        reason="",
        discard_reason="",
        replay_id=replay_id,
        **(envelope_columns or {}),
    )
    connection.execute(again)


def delete_outcomes(connection: Connection, ids: Sequence[UUID], sink: str) -> None:
    """Delete what a sink, or every sink, made of deliveries, and which records were found dead."""
    forgotten = delete(sink_outcomes).where(sink_outcomes.c.delivery_id.in_(ids))
    dead = delete(dead_records).where(dead_records.c.delivery_id.in_(ids))
    if sink:
        forgotten = forgotten.where(sink_outcomes.c.sink == sink)
        # What could not be read is "" and is found again by every attempt.
        dead = dead.where(dead_records.c.sink.in_((sink, "")))
    connection.execute(forgotten)
    connection.execute(dead)
