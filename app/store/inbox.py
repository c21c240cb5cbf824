"""Deliveries as received: put, claim, read, settle, wake. The truth about what has arrived."""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, bindparam, case, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from app.store.delivery import Arrival, Delivery, Receipt, Verdict, identify
from app.store.engine import Store, store_faults
from app.store.schema import deliveries

# After a commit the web process wakes a worker itself; the sweeper does so only if that was lost.
WAKE_GRACE_S = 5.0
_COMPRESSION_LEVEL = 1

# Due, or free to be claimed, but still in hand: the worker that had it is gone.
_LOST_ATTEMPTS = deliveries.c.lost_attempts + case((deliveries.c.held_by != "", 1), else_=0)


class Inbox:
    """The deliveries table. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, engine: Store) -> None:
        self._engine = engine
        insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
        statement = insert(deliveries)
        again = deliveries.c.duplicates + statement.excluded.duplicates + 1
        self._insert = statement.on_conflict_do_update(
            index_elements=["id"], set_={"duplicates": again}
        ).returning(deliveries.c.id, deliveries.c.duplicates)

    def put(self, arrivals: Sequence[Arrival]) -> list[Receipt]:
        """Commit arrivals together; the receipts come in the same order."""
        ids = [identify(arrival.event_id, arrival.created_at, arrival.body) for arrival in arrivals]
        copies = Counter(ids)
        rows = {id_: _row(id_, arrival, copies[id_]) for id_, arrival in zip(ids, arrivals, strict=True)}
        with store_faults():
            duplicates = self._insert_rows(rows)
        receipts = []
        for id_ in ids:
            # Of the same bytes twice in one group, the first may be new; the others never are.
            receipts.append(Receipt(id_, is_duplicate=duplicates[id_] >= copies[id_]))
            duplicates[id_] = copies[id_]
        return receipts

    def _insert_rows(self, rows: Mapping[UUID, Mapping[str, Any]]) -> dict[UUID, int]:
        # In the order of the key, so that two processes with the same rows cannot deadlock.
        ordered = [rows[id_] for id_ in sorted(rows)]
        for attempt in (1, 2):
            try:
                with self._engine.begin() as connection:
                    found = connection.execute(self._insert, ordered)
                    return {row.id: row.duplicates for row in found}
            except DBAPIError as error:
                # A pooled connection that died while idle says nothing about the store: ask once more.
                if attempt == 2 or not error.connection_invalidated:
                    raise
        raise AssertionError("unreachable")

    def claim(self, ids: Sequence[UUID], *, holder: str, now: datetime, lease_s: float) -> list[Delivery]:
        """Take what is pending and free among these ids, for `lease_s` seconds; counts as one attempt.

        holder: whose it is meanwhile; not empty.
        """
        until = now + timedelta(seconds=lease_s)
        columns = [deliveries.c[name] for name in Delivery.__dataclass_fields__]
        statement = (
            update(deliveries)
            .where(
                deliveries.c.id.in_(sorted(ids)),
                deliveries.c.state == "pending",
                or_(deliveries.c.leased_until.is_(None), deliveries.c.leased_until <= now),
            )
            .values(
                leased_until=until,
                due_at=until,
                attempts=deliveries.c.attempts + 1,
                lost_attempts=_LOST_ATTEMPTS,
                held_by=holder,
            )
            .returning(*columns)
        )
        with store_faults(), self._engine.begin() as connection:
            rows = connection.execute(statement).mappings().all()
        return sorted((_delivery(row) for row in rows), key=lambda delivery: delivery.id)

    def release(self, holder: str, *, now: datetime) -> int:
        """Make due at once what a worker held that is gone; return how many deliveries that were."""
        statement = (
            update(deliveries)
            # What is held is due when its lease ends: the index on `due_at` finds it.
            .where(deliveries.c.state == "pending", deliveries.c.due_at > now, deliveries.c.held_by == holder)
            .values(leased_until=None, due_at=now)
        )
        with store_faults(), self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    def read_body(self, delivery_id: UUID) -> bytes:
        """Return a delivery's body, the bytes that were signed."""
        statement = select(deliveries.c.body).where(deliveries.c.id == delivery_id)
        with store_faults(), self._engine.connect() as connection:
            return zlib.decompress(connection.execute(statement).scalar_one())

    def wake(self, *, now: datetime, most: int, again_after_s: float) -> list[Delivery]:
        """Return what is pending and due, oldest first, and make it due again in `again_after_s` seconds.

        Several sweepers may ask at once: each delivery is given to one of them.
        """
        due = (
            select(deliveries.c.id)
            .where(deliveries.c.state == "pending", deliveries.c.due_at <= now)
            .order_by(deliveries.c.due_at)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        statement = (
            update(deliveries)
            .where(deliveries.c.id.in_(due.scalar_subquery()))
            # Before it is enqueued, so that what may kill its worker is known from the others.
            .values(due_at=now + timedelta(seconds=again_after_s), lost_attempts=_LOST_ATTEMPTS, held_by="")
            .returning(*(deliveries.c[name] for name in Delivery.__dataclass_fields__))
        )
        with store_faults(), self._engine.begin() as connection:
            rows = connection.execute(statement).mappings().all()
        return sorted((_delivery(row) for row in rows), key=lambda delivery: delivery.received_at)

    def let_go(self, ids: Sequence[UUID], *, holder: str, now: datetime) -> int:
        """Make due at once what a worker was woken for and could not settle; return how many.

        It did not get as far as to hold them, or it holds them; it lives, so it is not lost.
        """
        statement = (
            update(deliveries)
            .where(
                deliveries.c.id.in_(sorted(ids)),
                deliveries.c.state == "pending",
                or_(deliveries.c.held_by == holder, deliveries.c.leased_until.is_(None)),
            )
            .values(leased_until=None, due_at=now, held_by="")
        )
        with store_faults(), self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    def recall(self, *, now: datetime) -> int:
        """Make due at once what no worker has in hand yet, because its wake-up is lost; return how many."""
        statement = (
            update(deliveries)
            .where(
                deliveries.c.state == "pending",
                deliveries.c.due_at > now,
                # What waits for its next attempt is leased until then.
                deliveries.c.leased_until.is_(None),
            )
            .values(due_at=now)
        )
        with store_faults(), self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    def oldest_pending(self) -> datetime | None:
        """Return when the oldest delivery that is still to be settled came; None where there is none."""
        statement = select(func.min(deliveries.c.received_at)).where(deliveries.c.state == "pending")
        with store_faults(), self._engine.connect() as connection:
            oldest: datetime | None = connection.execute(statement).scalar_one()
            return oldest

    def count(self) -> dict[str, int]:
        """Return how many deliveries are in each state, and under "duplicate" how often one came again."""
        by_state = select(deliveries.c.state, func.count(), func.sum(deliveries.c.duplicates))
        with store_faults(), self._engine.connect() as connection:
            rows = connection.execute(by_state.group_by(deliveries.c.state)).all()
        return {state: number for state, number, _ in rows} | {"duplicate": sum(again for *_, again in rows)}


def settle(connection: Connection, verdicts: Sequence[Verdict], *, now: datetime) -> None:
    """Write the verdicts of one job, as part of the caller's transaction."""
    statement = (
        update(deliveries)
        .where(deliveries.c.id == bindparam("delivery_id"), deliveries.c.state == "pending")
        .values(
            state=bindparam("new_state"),
            held_by="",
            # A worker came back from it.
            lost_attempts=0,
            reason=bindparam("new_reason"),
            records=bindparam("new_records"),
            replaced=bindparam("new_replaced"),
            due_at=bindparam("new_due_at"),
            leased_until=bindparam("new_leased_until"),
            settled_at=bindparam("new_settled_at"),
        )
    )
    rows = [
        {
            "delivery_id": verdict.delivery_id,
            "new_state": verdict.state,
            "new_reason": verdict.reason,
            "new_records": verdict.records,
            "new_replaced": verdict.replaced,
            "new_due_at": verdict.due_at,
            # Nobody else may take it before it is due: a job that was already queued would skip the backoff.
            "new_leased_until": verdict.due_at if verdict.state == "pending" else None,
            "new_settled_at": None if verdict.state == "pending" else now,
        }
        for verdict in sorted(verdicts, key=lambda verdict: verdict.delivery_id)
    ]
    if rows:
        connection.execute(statement, rows)


def _row(delivery_id: UUID, arrival: Arrival, copies: int) -> dict[str, Any]:
    row = {name: getattr(arrival, name) for name in Arrival.__dataclass_fields__}
    return row | {
        "id": delivery_id,
        "duplicates": copies - 1,
        "due_at": arrival.received_at + timedelta(seconds=WAKE_GRACE_S),
        "settled_at": None if arrival.state == "pending" else arrival.received_at,
        "body_bytes": len(arrival.body),
        "body": zlib.compress(arrival.body, _COMPRESSION_LEVEL),
    }


def _delivery(row: RowMapping) -> Delivery:
    return Delivery(**{name: row[name] for name in Delivery.__dataclass_fields__})
