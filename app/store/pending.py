"""Pending deliveries: lease, release, requeue and settle."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    Text,
    Update,
    UpdateBase,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.types import TypeEngine

from app.clock import utc_now
from app.database.engine import Database
from app.database.late_flush import commit_without_flush
from app.store.delivery_attempts import save_attempts
from app.store.envelope_columns import ENVELOPE_COLUMNS, SOURCE_COLUMNS, to_envelope
from app.store.held import HELD_AFTER, IS_FAILING
from app.store.models import (
    Attribution,
    Delivery,
    DeliveryAttempt,
    DeliveryPriority,
    DeliveryState,
    StateChange,
)
from app.store.reasons import Reason
from app.store.row_sets import bind_rows, build_row_set
from app.store.schema import deliveries, sink_outcomes

# For queries by id. Not `state = 'pending'`: if its statistics are older than the backlog, PostgreSQL would
# search the whole index on due deliveries for the few ids of a job.
IS_PENDING = deliveries.c.state.concat("") == DeliveryState.PENDING
# All of them, named so that the index on priority and time of the next attempt is used for the time alone.
_HAS_ANY_PRIORITY = deliveries.c.priority.in_(list(DeliveryPriority))
# A delivery that can be leased and still has a worker: that worker died.
IS_LOST = deliveries.c.leased_by != ""
_MAX_SEARCHED = 10_000
COLUMNS_OF_ANY_LEASE = (
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
DELIVERY_COLUMNS = (*COLUMNS_OF_ANY_LEASE, deliveries.c.lost_attempts)
# Of the row of a state change.
_STATE_CHANGE_TYPES: Mapping[str, TypeEngine[Any]] = {
    "delivery_id": deliveries.c.id.type,
    "new_state": deliveries.c.state.type,
    "uncounted_attempts": Integer(),
    "new_reason": deliveries.c.reason.type,
    "new_records": Integer(),
    "new_replaced_characters": deliveries.c.replaced_characters.type,
    **dict.fromkeys(("new_due_at", "new_leased_until", "new_settled_at"), deliveries.c.due_at.type),
    **dict.fromkeys(
        ("new_integrated_account_id", "new_sync_job_run_id", "new_account_source", "new_run_source"), Text()
    ),
}


def _build_state_change(row: Mapping[str, ColumnElement[Any]]) -> Update:
    """Return the statement that changes the states of deliveries. row: the values of one of them."""
    return (
        update(deliveries)
        .where(deliveries.c.id == row["delivery_id"], IS_PENDING)
        .values(
            state=row["new_state"],
            leased_by="",
            # The worker survived this delivery.
            lost_attempts=0,
            attempts=deliveries.c.attempts - row["uncounted_attempts"],
            reason=row["new_reason"],
            records=func.coalesce(row["new_records"], deliveries.c.records),
            replaced_characters=row["new_replaced_characters"],
            due_at=row["new_due_at"],
            leased_until=row["new_leased_until"],
            settled_at=row["new_settled_at"],
            **{
                name: func.coalesce(row[f"new_{name}"], deliveries.c[name])
                for name in ("integrated_account_id", "sync_job_run_id", "account_source", "run_source")
            },
        )
    )


_CHANGE_ROW_SET = _build_state_change(dict(build_row_set(_STATE_CHANGE_TYPES).c.items()))
_CHANGE_ROW = _build_state_change(
    {name: bindparam(name, type_=type_) for name, type_ in _STATE_CHANGE_TYPES.items()}
)

# The statements of every job, built once.
_IS_AMONG = deliveries.c.id.in_(bindparam("ids", expanding=True))
_CAN_BE_LEASED = (
    _IS_AMONG,
    IS_PENDING,
    or_(deliveries.c.leased_until.is_(None), deliveries.c.leased_until <= bindparam("now")),
)
_LEASED = {
    "leased_until": bindparam("until"),
    "due_at": bindparam("until"),
    "leased_by": bindparam("worker"),
    "attempts": deliveries.c.attempts + 1,
}
_LOST_STATEMENT = (
    select(deliveries.c.id, deliveries.c.attempts, deliveries.c.leased_by)
    .where(*_CAN_BE_LEASED, IS_LOST)
    .order_by(deliveries.c.id)
    .with_for_update()
)
_LEASE_LOST_STATEMENT = (
    update(deliveries)
    .where(_IS_AMONG)
    .values(**_LEASED, lost_attempts=deliveries.c.lost_attempts + 1)
    .returning(*DELIVERY_COLUMNS)
)
_LOCK_STATEMENT = (
    select(deliveries.c.id, deliveries.c.resource)
    .where(_IS_AMONG, IS_PENDING)
    # Locked in one order, so that two workers cannot deadlock.
    .order_by(deliveries.c.id)
    .with_for_update()
)
_LOCK_LEASED_STATEMENT = _LOCK_STATEMENT.where(deliveries.c.leased_by == bindparam("worker"))


@cache
def _build_lease(dialect: str) -> UpdateBase:
    is_free = (*_CAN_BE_LEASED, ~IS_LOST, *commit_without_flush(dialect))
    return update(deliveries).where(*is_free).values(**_LEASED).returning(*DELIVERY_COLUMNS)


class PendingDeliveries:
    """The pending deliveries. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lease(self, ids: Sequence[UUID], *, worker: str, now: datetime, lease_s: float) -> list[Delivery]:
        """Lease the pending, unleased deliveries of these ids for `lease_s` seconds; counts as an attempt.

        worker: the owner of the lease; not empty. Returns the leased deliveries, oldest first.
        """
        parameters = {"now": now, "until": now + timedelta(seconds=lease_s), "worker": worker}
        statement = _build_lease(self._database.dialect.name)
        rows = [*self._database.read(statement, {**parameters, "ids": sorted(ids)})]
        if rest := {*ids} - {row.id for row in rows}:
            rows += self._lease_lost({**parameters, "ids": sorted(rest)})
        return sorted(
            (to_delivery(row) for row in rows), key=lambda delivery: (delivery.received_at, delivery.id)
        )

    def _lease_lost(self, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Lease the deliveries whose worker died, and keep its attempts; return their rows."""
        now = parameters["now"]
        with self._database.transaction() as connection:
            attempts = [
                DeliveryAttempt(id_, attempt, worker, None, now, DeliveryState.PENDING, Reason.WORKER_LOST)
                for id_, attempt, worker in connection.execute(_LOST_STATEMENT, parameters)
            ]
            if not attempts:
                return ()
            save_attempts(connection, attempts)
            ids = [attempt.delivery_id for attempt in attempts]
            return connection.execute(_LEASE_LOST_STATEMENT, {**parameters, "ids": ids}).all()

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
                IS_PENDING,
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
            .where(deliveries.c.id.in_(sorted(ids)), ~IS_PENDING, deliveries.c.leased_by == worker)
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


def lock_pending(connection: Connection, ids: Sequence[UUID], *, worker: str | None) -> dict[UUID, str]:
    """Lock the deliveries that are pending, in the caller's transaction; return their resources by id.

    worker: the owner of their leases; None for any.
    """
    statement = _LOCK_STATEMENT if worker is None else _LOCK_LEASED_STATEMENT
    rows = connection.execute(statement, {"ids": ids, "worker": worker})
    return {row.id: row.resource for row in rows}


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
    if rows and connection.dialect.name == "postgresql":
        connection.execute(_CHANGE_ROW_SET, bind_rows(rows))
    elif rows:
        connection.execute(_CHANGE_ROW, rows)
    # A load that ended during the attempt could not settle its deliveries.
    held = [change.delivery_id for change in state_changes if change.due_at > now + HELD_AFTER]
    make_unheld_due(connection, held, now)


def make_unheld_due(connection: Connection, ids: Sequence[UUID], now: datetime) -> None:
    """Make the held deliveries due that no sink holds any more, in the caller's transaction."""
    held = exists().where(
        sink_outcomes.c.delivery_id == deliveries.c.id, IS_FAILING, sink_outcomes.c.held_scope.is_not(None)
    )
    is_held = (deliveries.c.leased_by == "", deliveries.c.due_at > now + HELD_AFTER)
    unheld = update(deliveries).where(deliveries.c.id.in_(ids), IS_PENDING, *is_held, ~held)
    if ids:
        connection.execute(unheld.values(due_at=now, leased_until=None))


def _attribution_parameters(attribution: Attribution | None) -> dict[str, str | None]:
    return {
        "new_integrated_account_id": attribution.account if attribution else None,
        "new_sync_job_run_id": attribution.run if attribution else None,
        "new_account_source": attribution.account_source if attribution else None,
        "new_run_source": attribution.run_source if attribution else None,
    }


def to_delivery(row: Row[Any]) -> Delivery:
    """Return a row with DELIVERY_COLUMNS as a delivery."""
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
