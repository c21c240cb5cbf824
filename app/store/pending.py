"""Pending deliveries: lease, release, requeue and settle."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    Text,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)

from app.clock import utc_now
from app.database.engine import Database
from app.store.delivery_attempts import save_attempts
from app.store.envelope_columns import ENVELOPE_COLUMNS, SOURCE_COLUMNS, to_envelope
from app.store.held import HELD_AFTER
from app.store.models import (
    Attribution,
    Delivery,
    DeliveryAttempt,
    DeliveryPriority,
    DeliveryState,
    StateChange,
)
from app.store.reasons import Reason
from app.store.schema import deliveries

# For queries by id. Not `state = 'pending'`: if its statistics are older than the backlog, PostgreSQL would
# search the whole index on due deliveries for the few ids of a job.
_IS_PENDING = deliveries.c.state.concat("") == DeliveryState.PENDING
# All of them, named so that the index on priority and time of the next attempt is used for the time alone.
_HAS_ANY_PRIORITY = deliveries.c.priority.in_(list(DeliveryPriority))
# A delivery that can be leased and still has a worker: that worker died.
_IS_LOST = deliveries.c.leased_by != ""
_MAX_SEARCHED = 10_000
_COLUMNS_OF_ANY_LEASE = (
    deliveries.c.id,
    deliveries.c.received_at,
    *ENVELOPE_COLUMNS,
    *SOURCE_COLUMNS,
    deliveries.c.body_bytes,
    deliveries.c.attempts,
    deliveries.c.reason,
    deliveries.c.traceparent,
    deliveries.c.replay_id,
)
_DELIVERY_COLUMNS = (*_COLUMNS_OF_ANY_LEASE, deliveries.c.lost_attempts)
_STATE_CHANGE_STATEMENT = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("delivery_id"), _IS_PENDING)
    .values(
        state=bindparam("new_state"),
        leased_by="",
        # The worker survived this delivery.
        lost_attempts=0,
        attempts=deliveries.c.attempts - bindparam("uncounted_attempts", type_=Integer),
        reason=bindparam("new_reason"),
        records=func.coalesce(bindparam("new_records", type_=Integer), deliveries.c.records),
        replaced_characters=bindparam("new_replaced_characters"),
        due_at=bindparam("new_due_at"),
        leased_until=bindparam("new_leased_until"),
        settled_at=bindparam("new_settled_at"),
        **{
            name: func.coalesce(bindparam(f"new_{name}", type_=Text), deliveries.c[name])
            for name in ("integrated_account_id", "sync_job_run_id", "account_source", "run_source")
        },
    )
)


class PendingDeliveries:
    """The pending deliveries. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lease(self, ids: Sequence[UUID], *, worker: str, now: datetime, lease_s: float) -> list[Delivery]:
        """Lease the pending, unleased deliveries of these ids for `lease_s` seconds; counts as an attempt.

        worker: the owner of the lease; not empty. Returns the leased deliveries, oldest first.
        """
        until = now + timedelta(seconds=lease_s)
        values = {"leased_until": until, "due_at": until, "leased_by": worker}
        values["attempts"] = deliveries.c.attempts + 1
        statement = update(deliveries).where(*_can_be_leased(ids, now)).values(values)
        rows = [*self._database.read(statement.where(~_IS_LOST).returning(*_DELIVERY_COLUMNS))]
        if rest := {*ids} - {row.id for row in rows}:
            rows += self._lease_lost(sorted(rest), values, now=now)
        return sorted(
            (_to_delivery(row) for row in rows), key=lambda delivery: (delivery.received_at, delivery.id)
        )

    def _lease_lost(self, ids: Sequence[UUID], values: Mapping[str, Any], *, now: datetime) -> Sequence[Any]:
        """Lease the deliveries whose worker died, and keep its attempts; return their rows."""
        lost = (
            select(deliveries.c.id, deliveries.c.attempts, deliveries.c.leased_by)
            .where(*_can_be_leased(ids, now), _IS_LOST)
            .order_by(deliveries.c.id)
            .with_for_update()
        )
        with self._database.transaction() as connection:
            attempts = [
                DeliveryAttempt(id_, attempt, worker, None, now, DeliveryState.PENDING, Reason.WORKER_LOST)
                for id_, attempt, worker in connection.execute(lost)
            ]
            if not attempts:
                return ()
            save_attempts(connection, attempts)
            statement = update(deliveries).where(
                deliveries.c.id.in_([attempt.delivery_id for attempt in attempts])
            )
            return connection.execute(
                statement.values({**values, "lost_attempts": deliveries.c.lost_attempts + 1}).returning(
                    *_DELIVERY_COLUMNS
                )
            ).all()

    def release_worker(self, worker: str, *, now: datetime) -> int:
        """Make the deliveries of a dead worker due now; return their number."""
        statement = (
            update(deliveries)
            # A leased delivery is due when its lease ends: the index on `due_at` finds it.
            .where(
                deliveries.c.state == DeliveryState.PENDING,
                _HAS_ANY_PRIORITY,
                deliveries.c.due_at > now,
                deliveries.c.leased_by == worker,
            )
            .values(leased_until=None, due_at=now)
        )
        return self._database.execute(statement)

    def lease_due(
        self,
        *,
        now: datetime,
        limit: int,
        requeue_after_s: float,
        priority: DeliveryPriority = DeliveryPriority.LIVE,
    ) -> list[Delivery]:
        """Return due deliveries to enqueue, oldest first; they are due again after `requeue_after_s` seconds.

        Safe in several sweepers at once: a delivery is returned to one of them.
        """
        due = (
            select(deliveries.c.id)
            .where(
                deliveries.c.state == DeliveryState.PENDING,
                deliveries.c.priority == priority,
                deliveries.c.due_at <= now,
            )
            .order_by(deliveries.c.due_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        statement = (
            update(deliveries)
            .where(deliveries.c.id.in_(due.scalar_subquery()))
            .values(due_at=now + timedelta(seconds=requeue_after_s))
            # The lease will count it as lost. It is lost now: it gets a job of its own.
            .returning(
                *_COLUMNS_OF_ANY_LEASE,
                (deliveries.c.lost_attempts + case((_IS_LOST, 1), else_=0)).label("lost_attempts"),
            )
        )
        rows = self._database.read(statement)
        return sorted((_to_delivery(row) for row in rows), key=lambda delivery: delivery.received_at)

    def release(self, ids: Sequence[UUID], *, worker: str, now: datetime) -> int:
        """Make deliveries due now that a live worker could not settle; return their number.

        For deliveries that the worker leased or was about to lease. Does not count as an attempt or as a lost
        attempt: an unstable database must not use up the attempts.
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
        """End the leases of a worker on deliveries that were settled or discarded by others meanwhile."""
        statement = (
            update(deliveries)
            .where(deliveries.c.id.in_(sorted(ids)), ~_IS_PENDING, deliveries.c.leased_by == worker)
            .values(leased_until=None, leased_by="")
        )
        self._database.execute(statement)

    def make_all_due(self, *, now: datetime) -> int:
        """Make all unleased deliveries due now, because their jobs were lost; return their number."""
        statement = (
            update(deliveries)
            .where(
                deliveries.c.state == DeliveryState.PENDING,
                _HAS_ANY_PRIORITY,
                deliveries.c.due_at > now,
                # A delivery that backs off is leased until its next attempt.
                deliveries.c.leased_until.is_(None),
            )
            .values(due_at=now)
        )
        return self._database.execute(statement)

    def find_oldest_received_at(self, *, now: datetime | None = None) -> datetime | None:
        """Return the time at which the oldest unsettled delivery was received; None if there is none.

        Replayed deliveries are excluded: they are old, and do not show how long new ones wait. Held
        deliveries are excluded: they wait for a sink, and not for a worker. now: None for the present.
        """
        is_new = deliveries.c.replay_id.is_(None)
        oldest = (
            select(deliveries.c.received_at, deliveries.c.due_at)
            .where(deliveries.c.settled_at.is_(None), is_new)
            .order_by(deliveries.c.received_at)
            .limit(1)
        )
        held_from = (now or utc_now()) + HELD_AFTER
        rows = self._database.read(oldest)
        if not rows or rows[0].due_at < held_from:
            return cast("datetime", rows[0].received_at) if rows else None
        # Any number may be held. A delivery that waits for a worker is among the first that are due.
        due = (
            select(deliveries.c.received_at)
            .where(
                deliveries.c.state == DeliveryState.PENDING,
                deliveries.c.priority == DeliveryPriority.LIVE,
                deliveries.c.due_at < held_from,
                is_new,
            )
            .order_by(deliveries.c.due_at)
            .limit(_MAX_SEARCHED)
            .subquery()
        )
        [(oldest_due,)] = self._database.read(select(func.min(due.c.received_at)))
        return cast("datetime | None", oldest_due)


def _can_be_leased(ids: Sequence[UUID], now: datetime) -> tuple[ColumnElement[bool], ...]:
    is_unleased = or_(deliveries.c.leased_until.is_(None), deliveries.c.leased_until <= now)
    return (deliveries.c.id.in_(sorted(ids)), _IS_PENDING, is_unleased)


def lock_pending(connection: Connection, ids: Sequence[UUID], *, worker: str | None) -> dict[UUID, str]:
    """Lock the deliveries that are pending, in the caller's transaction; return their resources by id.

    worker: the owner of their leases; None for any.
    """
    is_leased = [] if worker is None else [deliveries.c.leased_by == worker]
    statement = (
        select(deliveries.c.id, deliveries.c.resource)
        .where(deliveries.c.id.in_(ids), _IS_PENDING, *is_leased)
        # Locked in one order, so that two workers cannot deadlock.
        .order_by(deliveries.c.id)
        .with_for_update()
    )
    return {row.id: row.resource for row in connection.execute(statement)}


def write_state_changes(
    connection: Connection, state_changes: Sequence[StateChange], *, now: datetime
) -> None:
    """Write the state changes of one job in the caller's transaction."""
    rows = [
        {
            "delivery_id": state_change.delivery_id,
            "new_state": state_change.state,
            "new_reason": state_change.reason,
            "new_records": state_change.records,
            "new_replaced_characters": state_change.replaced_characters,
            "new_due_at": state_change.due_at,
            "uncounted_attempts": 0 if state_change.is_attempt else 1,
            # Leased until it is due: a job that is already queued must not skip the backoff.
            "new_leased_until": state_change.due_at if state_change.state == DeliveryState.PENDING else None,
            "new_settled_at": None if state_change.state == DeliveryState.PENDING else now,
            **_attribution_parameters(state_change.attribution),
        }
        for state_change in sorted(state_changes, key=lambda state_change: state_change.delivery_id)
    ]
    if rows:
        connection.execute(_STATE_CHANGE_STATEMENT, rows)


def _attribution_parameters(attribution: Attribution | None) -> dict[str, str | None]:
    return {
        "new_integrated_account_id": attribution.account if attribution else None,
        "new_sync_job_run_id": attribution.run if attribution else None,
        "new_account_source": attribution.account_source if attribution else None,
        "new_run_source": attribution.run_source if attribution else None,
    }


def _to_delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        id=row.id,
        received_at=row.received_at,
        envelope=to_envelope(row._mapping),
        body_bytes=row.body_bytes,
        attempts=row.attempts,
        lost_attempts=row.lost_attempts,
        reason=row.reason,
        traceparent=row.traceparent,
        is_replay=row.replay_id is not None,
    )
