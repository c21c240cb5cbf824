"""Requeue finished deliveries: lock them, make them pending, delete their outcomes."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, select, update

from app.store.models import DeliveryPriority, DeliveryState
from app.store.run_summaries import outdate_summaries
from app.store.schema import dead_records, deliveries, sink_outcomes

# For queries by id: see _IS_PENDING in `app.store.pending`.
_IS_FINISHED = deliveries.c.state.concat("") != DeliveryState.PENDING
HAS_BODY = deliveries.c.pruned_at.is_(None)


def lock_finished(connection: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Lock the finished deliveries that have a body until the transaction ends; return their ids."""
    statement = (
        select(deliveries.c.id)
        .where(deliveries.c.id.in_(ids), _IS_FINISHED, HAS_BODY)
        # Locked in one order, so that two replays cannot deadlock.
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
    """Make deliveries pending and due, and outdate the summaries of their runs.

    envelope_columns: new values, if they were unreadable before.
    """
    statement = update(deliveries).where(deliveries.c.id.in_(ids))
    requeued = statement.values(
        state=DeliveryState.PENDING,
        settled_at=None,
        due_at=now,
        priority=DeliveryPriority.REPLAYED,
        leased_until=None,
        leased_by="",
        lost_attempts=0,
        # Not 0: on a first attempt, workers do not check which sinks already have the delivery.
        attempts=1,
        reason="",
        discard_reason="",
        replay_id=replay_id,
        **(envelope_columns or {}),
    )
    run_ids = connection.execute(requeued.returning(deliveries.c.sync_job_run_id)).scalars()
    outdate_summaries(connection, run_ids)


def delete_outcomes(connection: Connection, ids: Sequence[UUID], sink: str) -> None:
    """Delete the outcomes and dead records of deliveries. sink: only of this sink; "" for all."""
    outcomes = delete(sink_outcomes).where(sink_outcomes.c.delivery_id.in_(ids))
    dead = delete(dead_records).where(dead_records.c.delivery_id.in_(ids))
    if sink:
        outcomes = outcomes.where(sink_outcomes.c.sink == sink)
        # Unreadable records have sink "": the sinks that are done need them, and are not written again.
        dead = dead.where(dead_records.c.sink == sink)
    connection.execute(outcomes)
    connection.execute(dead)
