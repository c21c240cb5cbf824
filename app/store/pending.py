"""What is still to be done with deliveries: which are due, who has them in hand, how they end."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, case, func, or_, select, update

from app.database.engine import Database
from app.store.envelope_columns import ENVELOPE_COLUMNS, to_envelope
from app.store.models import Delivery, DeliveryState, StateChange
from app.store.schema import deliveries

# Of deliveries that are named. Not `state = 'pending'`: where its statistics are older than the backlog,
# PostgreSQL would look for the few of a job in the index on what is due, all of it.
_IS_PENDING = deliveries.c.state.concat("") == DeliveryState.PENDING
# Due, or free to be claimed, but still in hand: the worker that had it is gone.
_LOST_ATTEMPTS = deliveries.c.lost_attempts + case((deliveries.c.leased_by != "", 1), else_=0)
_DELIVERY_COLUMNS = (
    deliveries.c.id,
    deliveries.c.received_at,
    *ENVELOPE_COLUMNS,
    deliveries.c.body_bytes,
    deliveries.c.attempts,
    deliveries.c.lost_attempts,
)
_STATE_CHANGE_STATEMENT = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("delivery_id"), _IS_PENDING)
    .values(
        state=bindparam("new_state"),
        leased_by="",
        # A worker came back from it.
        lost_attempts=0,
        reason=bindparam("new_reason"),
        records=bindparam("new_records"),
        replaced_characters=bindparam("new_replaced_characters"),
        due_at=bindparam("new_due_at"),
        leased_until=bindparam("new_leased_until"),
        settled_at=bindparam("new_settled_at"),
    )
)


class PendingDeliveries:
    """The pending deliveries. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lease(self, ids: Sequence[UUID], *, worker: str, now: datetime, lease_s: float) -> list[Delivery]:
        """Take what is pending and free among these ids, for `lease_s` seconds; counts as one attempt.

        holder: whose it is meanwhile; not empty. They are returned in the order in which they came.
        """
        until = now + timedelta(seconds=lease_s)
        statement = (
            update(deliveries)
            .where(
                deliveries.c.id.in_(sorted(ids)),
                _IS_PENDING,
                or_(deliveries.c.leased_until.is_(None), deliveries.c.leased_until <= now),
            )
            .values(
                leased_until=until,
                due_at=until,
                attempts=deliveries.c.attempts + 1,
                lost_attempts=_LOST_ATTEMPTS,
                leased_by=worker,
            )
            .returning(*_DELIVERY_COLUMNS)
        )
        rows = self._database.read(statement)
        return sorted(
            (_to_delivery(row) for row in rows), key=lambda delivery: (delivery.received_at, delivery.id)
        )

    def release_worker(self, worker: str, *, now: datetime) -> int:
        """Make due at once what a worker held that is gone; return how many deliveries that were."""
        statement = (
            update(deliveries)
            # What is held is due when its lease ends: the index on `due_at` finds it.
            .where(
                deliveries.c.state == DeliveryState.PENDING,
                deliveries.c.due_at > now,
                deliveries.c.leased_by == worker,
            )
            .values(leased_until=None, due_at=now)
        )
        return self._database.execute(statement)

    def lease_due(self, *, now: datetime, limit: int, requeue_after_s: float) -> list[Delivery]:
        """Return what is pending and due, oldest first, and make it due again in `again_after_s` seconds.

        Several sweepers may ask at once: each delivery is given to one of them.
        """
        due = (
            select(deliveries.c.id)
            .where(deliveries.c.state == DeliveryState.PENDING, deliveries.c.due_at <= now)
            .order_by(deliveries.c.due_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        statement = (
            update(deliveries)
            .where(deliveries.c.id.in_(due.scalar_subquery()))
            # Before it is enqueued, so that what may kill its worker is known from the others.
            .values(
                due_at=now + timedelta(seconds=requeue_after_s), lost_attempts=_LOST_ATTEMPTS, leased_by=""
            )
            .returning(*_DELIVERY_COLUMNS)
        )
        rows = self._database.read(statement)
        return sorted((_to_delivery(row) for row in rows), key=lambda delivery: delivery.received_at)

    def release(self, ids: Sequence[UUID], *, worker: str, now: datetime) -> int:
        """Make due at once what a worker was woken for and could not settle; return how many.

        It did not get as far as to hold them, or it holds them; it lives, so it is not lost. That does not
        count as an attempt: a store that comes and goes must not use them up.
        """
        is_leased = deliveries.c.leased_by == worker
        statement = (
            update(deliveries)
            .where(
                deliveries.c.id.in_(sorted(ids)),
                _IS_PENDING,
                or_(is_leased, deliveries.c.leased_until.is_(None)),
            )
            .values(
                leased_until=None,
                due_at=now,
                leased_by="",
                attempts=deliveries.c.attempts - case((is_leased, 1), else_=0),
            )
        )
        return self._database.execute(statement)

    def clear_lease(self, ids: Sequence[UUID], *, worker: str) -> None:
        """Note that a worker is done with what others have concluded while it had it in hand."""
        statement = (
            update(deliveries)
            .where(deliveries.c.id.in_(sorted(ids)), ~_IS_PENDING, deliveries.c.leased_by == worker)
            .values(leased_until=None, leased_by="")
        )
        self._database.execute(statement)

    def make_all_due(self, *, now: datetime) -> int:
        """Make due at once what no worker has in hand yet, because its wake-up is lost; return how many."""
        statement = (
            update(deliveries)
            .where(
                deliveries.c.state == DeliveryState.PENDING,
                deliveries.c.due_at > now,
                # What waits for its next attempt is leased until then.
                deliveries.c.leased_until.is_(None),
            )
            .values(due_at=now)
        )
        return self._database.execute(statement)

    def find_oldest_received_at(self) -> datetime | None:
        """Return when the oldest delivery that is still to be settled came; None where there is none.

        Those of a replay came long ago, and say nothing of how long what comes now has to wait.
        """
        statement = select(func.min(deliveries.c.received_at)).where(
            deliveries.c.settled_at.is_(None), deliveries.c.replay_id.is_(None)
        )
        [(oldest_received_at,)] = self._database.read(statement)
        return cast("datetime | None", oldest_received_at)


def lock_pending(connection: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Return which of these deliveries are pending, and keep them so until the caller's transaction ends."""
    statement = (
        select(deliveries.c.id)
        .where(deliveries.c.id.in_(ids), _IS_PENDING)
        # In one order, so that two workers with the same deliveries cannot deadlock.
        .order_by(deliveries.c.id)
        .with_for_update()
    )
    return set(connection.execute(statement).scalars())


def write_state_changes(
    connection: Connection, state_changes: Sequence[StateChange], *, now: datetime
) -> None:
    """Write the verdicts of one job, as part of the caller's transaction."""
    rows = [
        {
            "delivery_id": verdict.delivery_id,
            "new_state": verdict.state,
            "new_reason": verdict.reason,
            "new_records": verdict.records,
            "new_replaced_characters": verdict.replaced_characters,
            "new_due_at": verdict.due_at,
            # Nobody else may take it before it is due: a job that was already queued would skip the backoff.
            "new_leased_until": verdict.due_at if verdict.state == DeliveryState.PENDING else None,
            "new_settled_at": None if verdict.state == DeliveryState.PENDING else now,
        }
        for verdict in sorted(state_changes, key=lambda verdict: verdict.delivery_id)
    ]
    if rows:
        connection.execute(_STATE_CHANGE_STATEMENT, rows)


def _to_delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        id=row.id,
        received_at=row.received_at,
        envelope=to_envelope(row._mapping),
        body_bytes=row.body_bytes,
        attempts=row.attempts,
        lost_attempts=row.lost_attempts,
    )
