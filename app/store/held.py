"""Held deliveries: they wait for a sink that is paused, fails or is slow, and are released together.

A held delivery is pending and due in days, so that no feeder enqueues it. The sink outcome names the state
that holds it. A release makes it due at once.
"""

from datetime import datetime, timedelta

from sqlalchemy import func, literal_column, select, update

from app.database.engine import Database
from app.store.models import DeliveryPriority
from app.store.reasons import Reason
from app.store.schema import deliveries, sink_outcomes

# A worker holds a delivery again after this time, also if all releases are lost.
HELD_FOR = timedelta(days=7)
# No delivery that is retried is due later than this.
HELD_AFTER = timedelta(hours=1)
# An enqueued delivery is due again after a minute.
_MAX_ENQUEUED = timedelta(seconds=70)
_MAX_COUNTED = 10_000
_MAX_RENEWED = 1_000
# A replay has at most 2,000 pending deliveries: live ones behind those of two replays are found.
_MAX_SEARCHED = 5_000
# The scope of a delivery that waits for a load of its sink. In an open load, the load's id follows.
LOAD_SCOPE = "(load)"
# The scope of a delivery that waits for its turn at a slow sink.
SLOW_SCOPE = "(slow)"
# As literals: a database uses a partial index only for a query that repeats its condition.
IS_FAILING = sink_outcomes.c.state == literal_column("'failing'")
_IS_PENDING = deliveries.c.state == literal_column("'pending'")


def is_load_scope(scope: str | None) -> bool:
    """Whether a delivery with this scope waits for a load, or is in one: no release concerns it."""
    return scope is not None and scope.startswith(LOAD_SCOPE)


class HeldDeliveries:
    """The held deliveries. Methods raise StoreUnavailable; any number of processes may release at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_sinks(self) -> list[str]:
        """Return the sinks that have not accepted a delivery yet."""
        sinks: list[str] = []
        newest = select(func.min(sink_outcomes.c.sink)).where(IS_FAILING)
        # One search of the index for each: any of them may have 100,000 deliveries.
        while (sink := self._database.read(newest)[0][0]) is not None:
            sinks.append(sink)
            newest = select(func.min(sink_outcomes.c.sink)).where(IS_FAILING, sink_outcomes.c.sink > sink)
        return sinks

    def list_scopes(self, sink: str) -> list[str]:
        """Return the scopes of a sink's states that hold deliveries."""
        scopes: list[str] = []
        first = select(func.min(sink_outcomes.c.held_scope)).where(IS_FAILING, sink_outcomes.c.sink == sink)
        following = first.where(sink_outcomes.c.held_scope.is_not(None))
        while (scope := self._database.read(following)[0][0]) is not None:
            scopes.append(scope)
            following = first.where(sink_outcomes.c.held_scope > scope)
        return scopes

    def count(self, sink: str, scope: str, *, limit: int) -> tuple[int, datetime | None]:
        """Return the number of held deliveries, at most `limit`, and the time the oldest was received."""
        held = (
            select(sink_outcomes.c.held_received_at)
            .where(IS_FAILING, sink_outcomes.c.sink == sink, sink_outcomes.c.held_scope == scope)
            .order_by(sink_outcomes.c.held_received_at)
            .limit(limit)
            .subquery()
        )
        statement = select(func.count(), func.min(held.c.held_received_at)).select_from(held)
        [(number, oldest)] = self._database.read(statement)
        return number, oldest

    def count_released(self, priority: DeliveryPriority, *, now: datetime) -> dict[str, int]:
        """Count the released deliveries that no worker has processed yet, by sink.

        Only among the next 10,000 due ones.
        """
        # One priority: a search of the index ends at the first delivery that is not due.
        is_due = (deliveries.c.priority == priority, deliveries.c.due_at <= now + _MAX_ENQUEUED)
        due = (
            select(deliveries.c.id, deliveries.c.reason)
            .where(_IS_PENDING, *is_due)
            .order_by(deliveries.c.due_at)
            .limit(_MAX_COUNTED)
            .subquery()
        )
        statement = (
            select(sink_outcomes.c.sink, func.count())
            .select_from(due.join(sink_outcomes, sink_outcomes.c.delivery_id == due.c.id))
            .where(due.c.reason == Reason.SINK_RESUMED, sink_outcomes.c.reason == Reason.SINK_RESUMED)
            .group_by(sink_outcomes.c.sink)
        )
        return dict(self._database.read(statement))

    def release(
        self, sink: str, scope: str, *, limit: int, now: datetime, priority: DeliveryPriority | None = None
    ) -> int:
        """Make the deliveries due that arrived first, at most `limit`; return their number.

        priority: of the deliveries, among the first 5,000; None for any. A delivery that another sink still
        holds is held again by the next worker.
        """
        if limit <= 0:
            return 0
        outcomes = (IS_FAILING, sink_outcomes.c.sink == sink, sink_outcomes.c.held_scope == scope)
        oldest = select(sink_outcomes.c.delivery_id, sink_outcomes.c.held_received_at).where(*outcomes)
        oldest = oldest.order_by(sink_outcomes.c.held_received_at)
        if priority is None:
            oldest = oldest.limit(limit)
        else:
            first = oldest.limit(_MAX_SEARCHED).subquery()
            oldest = (
                select(first.c.delivery_id)
                .join(deliveries, deliveries.c.id == first.c.delivery_id)
                .where(deliveries.c.priority == priority)
                .order_by(first.c.held_received_at)
                .limit(limit)
            )
        with self._database.transaction() as connection:
            ids = connection.execute(oldest).scalars().all()
            # Deliveries first and in the order of their ids, as in every transaction that changes both.
            lock = select(deliveries.c.id).where(deliveries.c.id.in_(ids)).order_by(deliveries.c.id)
            locked = connection.execute(lock.with_for_update(skip_locked=True)).scalars().all()
            change = update(sink_outcomes).where(*outcomes, sink_outcomes.c.delivery_id.in_(locked))
            change = change.values(
                held_scope=None, held_received_at=None, reason=Reason.SINK_RESUMED, message=""
            )
            # Another process may have released some of them before the lock.
            released = connection.execute(change.returning(sink_outcomes.c.delivery_id)).scalars().all()
            is_idle = (_IS_PENDING, deliveries.c.leased_by == "", deliveries.c.due_at > now)
            due = update(deliveries).where(deliveries.c.id.in_(released), *is_idle)
            connection.execute(
                # The order in which the feeder enqueues.
                due.values(due_at=deliveries.c.received_at, leased_until=None, reason=Reason.SINK_RESUMED)
            )
        return len(released)

    def renew(self, *, now: datetime) -> int:
        """Hold deliveries for longer that are held for days already; return their number."""
        return sum(self._renew(priority, now) for priority in DeliveryPriority)

    def _renew(self, priority: DeliveryPriority, now: datetime) -> int:
        ends_soon = (deliveries.c.due_at > now + HELD_AFTER, deliveries.c.due_at < now + HELD_FOR / 2)
        ending = (
            select(deliveries.c.id)
            .where(_IS_PENDING, deliveries.c.priority == priority, *ends_soon)
            .order_by(deliveries.c.due_at)
            .limit(_MAX_RENEWED)
            .with_for_update(skip_locked=True)
        )
        change = update(deliveries).where(deliveries.c.id.in_(ending.scalar_subquery()))
        return self._database.execute(change.values(due_at=now + HELD_FOR, leased_until=now + HELD_FOR))
