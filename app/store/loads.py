"""Loads: deliveries that a sink writes together; planned in the store, and repeated until they are written.

A delivery that waits for a load is held, with LOAD_SCOPE as its scope. A plan gives it the scope of the load.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Row, case, func, or_, select, update

from app.database.engine import Database
from app.store.held import IS_FAILING, LOAD_SCOPE, HeldDeliveries
from app.store.models import Delivery
from app.store.pending import DELIVERY_COLUMNS, to_delivery
from app.store.schema import deliveries, loads, sink_outcomes

MAX_DELIVERIES = 10_000
# The ids in one statement.
_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Load:
    """An open load. attempts: including this one. lost_attempts: consecutive workers that died in it.

    body_bytes: of its bodies, uncompressed. prepared: the text that `prepare` stored in an earlier attempt.
    """

    id: UUID
    sink: str
    planned_at: datetime
    deliveries: int
    body_bytes: int
    attempts: int = 0
    lost_attempts: int = 0
    prepared: str = ""

    @property
    def scope(self) -> str:
        """The scope of its deliveries."""
        return f"{LOAD_SCOPE} {self.id}"


class Loads:
    """The open loads. Every method raises StoreUnavailable; any number of processes may call each."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held = HeldDeliveries(database)

    def plan(
        self,
        sink: str,
        *,
        max_bytes: int,
        max_age: timedelta,
        now: datetime,
        max_open: int = 4,
    ) -> Load | None:
        """Put waiting deliveries into a new load, those that arrived first; None if it is not time.

        It is time if their bodies reach `max_bytes`, if they are MAX_DELIVERIES, or if one waits for
        `max_age`. max_open: the open loads of the sink at once.
        """
        if self._count_open(sink) >= max_open:
            return None
        waiting = (
            select(
                sink_outcomes.c.delivery_id,
                sink_outcomes.c.updated_at,
                deliveries.c.body_bytes,
                deliveries.c.settled_at,
            )
            .join(deliveries, deliveries.c.id == sink_outcomes.c.delivery_id)
            .where(*_is_in(sink, LOAD_SCOPE))
            .order_by(sink_outcomes.c.held_received_at, sink_outcomes.c.delivery_id)
            .limit(MAX_DELIVERIES)
        )
        rows = self._database.read(waiting)
        # Discarded or erased meanwhile.
        ended = sorted(row.delivery_id for row in rows if row.settled_at is not None)
        chosen, chosen_bytes = list[UUID](), 0
        oldest = min((row.updated_at for row in rows), default=now)
        for row in rows:
            if chosen_bytes >= max_bytes:
                break
            if row.settled_at is None:
                chosen.append(row.delivery_id)
                chosen_bytes += row.body_bytes
        is_full = chosen_bytes >= max_bytes or len(rows) >= MAX_DELIVERIES
        if not (is_full or oldest <= now - max_age):
            return None
        return self._save_plan(sink, sorted(chosen), ended, now)

    def _count_open(self, sink: str) -> int:
        return int(self._database.read(select(func.count()).where(loads.c.sink == sink))[0][0])

    def _save_plan(self, sink: str, ids: Sequence[UUID], ended: Sequence[UUID], now: datetime) -> Load | None:
        load = Load(uuid4(), sink, now, 0, 0)
        number = body_bytes = 0
        with self._database.transaction() as connection:
            for page in split_ids(ended):
                change = update(sink_outcomes).where(*_is_in(sink, LOAD_SCOPE))
                change = change.where(sink_outcomes.c.delivery_id.in_(page))
                connection.execute(change.values(held_scope=None, held_received_at=None))
            for page in split_ids(ids):
                # Deliveries first and in the order of their ids, as in every transaction that changes both.
                lock = (
                    select(deliveries.c.id, deliveries.c.body_bytes)
                    .where(deliveries.c.id.in_(page), deliveries.c.settled_at.is_(None))
                    .order_by(deliveries.c.id)
                    .with_for_update(skip_locked=True)
                )
                sizes = {row.id: row.body_bytes for row in connection.execute(lock)}
                # Another planner may have taken some of them before the lock.
                change = update(sink_outcomes).where(*_is_in(sink, LOAD_SCOPE))
                change = change.where(sink_outcomes.c.delivery_id.in_(list(sizes)))
                change = change.values(held_scope=load.scope).returning(sink_outcomes.c.delivery_id)
                taken = connection.execute(change).scalars().all()
                number += len(taken)
                body_bytes += sum(sizes[id_] for id_ in taken)
            if not number:
                return None
            row = {"id": load.id, "sink": sink, "planned_at": now, "due_at": now}
            connection.execute(loads.insert().values(**row, deliveries=number, body_bytes=body_bytes))
        return Load(load.id, sink, now, number, body_bytes)

    def count_in_progress(self, sinks: Sequence[str], *, now: datetime) -> int:
        """Return the number of loads of these sinks that are written now, or enqueued for the first time."""
        is_enqueued = or_(loads.c.leased_by != "", loads.c.attempts == 0)
        statement = select(func.count()).where(loads.c.sink.in_(sinks), loads.c.due_at > now, is_enqueued)
        return int(self._database.read(statement)[0][0])

    def lease_due(
        self, sinks: Sequence[str], *, now: datetime, requeue_after_s: float, limit: int
    ) -> list[UUID]:
        """Return due loads of these sinks to enqueue; they are due again after `requeue_after_s` seconds."""
        is_due = (loads.c.sink.in_(sinks), loads.c.due_at <= now)
        due = select(loads.c.id).where(*is_due).order_by(loads.c.due_at, loads.c.id).limit(limit)
        ids = [row.id for row in self._database.read(due)]
        # Another process may have leased some of them since.
        change = update(loads).where(loads.c.id.in_(ids), *is_due)
        change = change.values(due_at=now + timedelta(seconds=requeue_after_s)).returning(loads.c.id)
        return [row.id for row in self._database.read(change)] if ids else []

    def lease(self, load_id: UUID, *, worker: str, now: datetime, lease_s: float) -> Load | None:
        """Lease a load; None if it has ended, or another worker has it. Counts as an attempt."""
        until = now + timedelta(seconds=lease_s)
        is_free = or_(loads.c.leased_until.is_(None), loads.c.leased_until <= now)
        change = update(loads).where(loads.c.id == load_id, is_free)
        change = change.values(
            leased_by=worker,
            leased_until=until,
            due_at=until,
            attempts=loads.c.attempts + 1,
            lost_attempts=loads.c.lost_attempts + case((loads.c.leased_by != "", 1), else_=0),
        )
        rows = self._database.read(change.returning(*_LOAD_COLUMNS))
        return _to_load(rows[0]) if rows else None

    def list_deliveries(self, load: Load) -> list[Delivery]:
        """Return the deliveries of a load that are pending, in the order of their arrival."""
        statement = (
            select(*DELIVERY_COLUMNS)
            .join(sink_outcomes, deliveries.c.id == sink_outcomes.c.delivery_id)
            .where(*_is_in(load.sink, load.scope), deliveries.c.settled_at.is_(None))
            .order_by(sink_outcomes.c.held_received_at, sink_outcomes.c.delivery_id)
        )
        return [to_delivery(row) for row in self._database.read(statement)]

    def prepare(self, load: Load, prepared: str, *, worker: str) -> bool:
        """Store the text by which a later attempt continues this one; return False if the lease is lost."""
        return self._change(load, worker, prepared=prepared)

    def defer(self, load: Load, *, worker: str, until: datetime) -> None:
        """End the lease of a load that could not be written; its next attempt is due at a time."""
        self._change(load, worker, leased_by="", leased_until=None, lost_attempts=0, due_at=until)

    def shrink(self, load: Load, ids: Sequence[UUID], *, worker: str, now: datetime) -> None:
        """Let these deliveries wait for another load, and end the lease; the rest is due now."""
        with self._database.transaction() as connection:
            is_owned = update(loads).where(loads.c.id == load.id, loads.c.leased_by == worker)
            values = {"leased_by": "", "leased_until": None, "lost_attempts": 0, "due_at": now}
            shrunk = is_owned.values(deliveries=loads.c.deliveries - len(ids), **values)
            if not connection.execute(shrunk).rowcount:
                return
            for page in split_ids(sorted(ids)):
                change = update(sink_outcomes).where(*_is_in(load.sink, load.scope))
                change = change.where(sink_outcomes.c.delivery_id.in_(page))
                connection.execute(change.values(held_scope=LOAD_SCOPE))

    def release_worker(self, worker: str, *, now: datetime) -> int:
        """Make the loads of a dead worker due now; return their number."""
        change = update(loads).where(loads.c.leased_by == worker)
        return self._database.execute(change.values(leased_until=None, due_at=now))

    def release_sink(self, sink: str, *, limit: int, now: datetime) -> int:
        """Release the deliveries of a sink that writes no loads any more; return their number.

        Its open loads end, except while a worker has them.
        """
        is_free = or_(loads.c.leased_until.is_(None), loads.c.leased_until <= now)
        with self._database.transaction() as connection:
            ended = loads.delete().where(loads.c.sink == sink, is_free).returning(*_LOAD_COLUMNS)
            for row in connection.execute(ended).all():
                change = update(sink_outcomes).where(*_is_in(sink, _to_load(row).scope))
                connection.execute(change.values(held_scope=LOAD_SCOPE))
        return self._held.release(sink, LOAD_SCOPE, limit=limit, now=now)

    def list_open_ids(self) -> set[UUID]:
        """Return the ids of the open loads."""
        return {row.id for row in self._database.read(select(loads.c.id))}

    def _change(self, load: Load, worker: str, **values: Any) -> bool:
        change = update(loads).where(loads.c.id == load.id, loads.c.leased_by == worker)
        return self._database.execute(change.values(**values)) > 0


_LOAD_COLUMNS = tuple(loads.c[name] for name in Load.__dataclass_fields__)


def _to_load(row: Row[Any]) -> Load:
    return Load(**row._mapping)


def _is_in(sink: str, scope: str) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions on the outcomes of a sink with a scope, for the index on waiting outcomes."""
    return (IS_FAILING, sink_outcomes.c.sink == sink, sink_outcomes.c.held_scope == scope)


def split_ids(ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    """Yield the ids in parts that one statement may have as parameters."""
    for start in range(0, len(ids), _PAGE):
        yield ids[start : start + _PAGE]
