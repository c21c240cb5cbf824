"""The status of sinks: paused or failing, held deliveries, lag and last write."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import func, select

from app.clock import utc_now
from app.database.engine import Database
from app.store.bounded_count import COUNT_LIMIT, BoundedCount
from app.store.held import IS_FAILING, HeldDeliveries, is_load_scope
from app.store.reasons import SET_UP_REASONS, Reason
from app.store.schema import deliveries, sink_outcomes
from app.store.sink_states import WHOLE_SINK, SinkState, SinkStates

# Each of these is read together with its delivery.
_MAX_RETRIED = 1_000
_NONE = BoundedCount(0)


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """The status of one sink.

    failing_since: None if it works. reason, message: of the failure; one that a person has to correct comes
    first. slow: the time of a write in words if it takes long, else "". held: deliveries that wait for it.
    retried: other deliveries that it has not accepted yet. loading: deliveries that wait for a load of the
    sink, or are in one; load_since: the oldest of them was received then. oldest_received_at: of all; None if
    there are none.
    """

    sink: str
    paused_at: datetime | None = None
    paused_by: str = ""
    pause_reason: str = ""
    failing_since: datetime | None = None
    reason: str = ""
    message: str = ""
    slow: str = ""
    held: BoundedCount = _NONE
    retried: BoundedCount = _NONE
    loading: BoundedCount = _NONE
    load_since: datetime | None = None
    oldest_received_at: datetime | None = None
    last_write_at: datetime | None = None
    last_failure_at: datetime | None = None

    @property
    def state(self) -> str:
        """The state as one word: paused, failing, slow or ok."""
        states = {"paused": self.paused_at, "failing": self.failing_since, "slow": self.slow}
        return next((state for state, is_current in states.items() if is_current), "ok")

    def lag_s(self, now: datetime) -> float | None:
        """Return the age of the oldest delivery that the sink has not accepted; None if there is none."""
        return (now - self.oldest_received_at).total_seconds() if self.oldest_received_at else None

    @property
    def waiting(self) -> BoundedCount:
        """The number of deliveries that the sink has not accepted yet."""
        return self.held + self.retried + self.loading


def list_sink_statuses(database: Database, sinks: Iterable[str] = ()) -> list[SinkStatus]:
    """Return the status of these sinks and of all others that were written; raises StoreUnavailable.

    The cost does not depend on the number of deliveries.
    """
    held = HeldDeliveries(database)
    states = SinkStates(database).list()
    by_sink = {sink: list(group) for sink, group in groupby(states, lambda state: state.sink)}
    waiting = set(held.list_sinks())
    return [
        _build_status(database, held, sink, by_sink.get(sink, []), has_waiting=sink in waiting)
        for sink in sorted({*sinks, *by_sink, *waiting})
    ]


def list_failing_sinks(database: Database) -> list[SinkStatus]:
    """Return the sinks that fail; raises StoreUnavailable."""
    return [status for status in list_sink_statuses(database) if status.failing_since]


def _build_status(
    database: Database, held: HeldDeliveries, sink: str, states: list[SinkState], *, has_waiting: bool
) -> SinkStatus:
    whole = next((state for state in states if state.scope == WHOLE_SINK), SinkState(sink))
    scopes = held.list_scopes(sink) if has_waiting else []
    counts = {scope: held.count(sink, scope, limit=COUNT_LIMIT + 1) for scope in scopes}
    loading = [count for scope, count in counts.items() if is_load_scope(scope)]
    waiting = [count for scope, count in counts.items() if not is_load_scope(scope)]
    retried, number = _read_retried(database, sink) if has_waiting else ([], _NONE)
    failures = [(state.open_since, state.reason, state.message) for state in states if state.open_since]
    failures += [
        (row.since, row.reason, row.message) for row in retried if row.reason == Reason.INTERNAL_ERROR
    ]
    _, reason, message = min(
        failures, key=lambda failure: failure[1] not in SET_UP_REASONS, default=(0, "", "")
    )
    load_since = min((oldest for _, oldest in loading if oldest), default=None)
    times = [*(oldest for _, oldest in counts.values() if oldest), *(row.since for row in retried)]
    return SinkStatus(
        sink,
        paused_at=whole.paused_at,
        paused_by=whole.paused_by,
        pause_reason=whole.pause_reason,
        failing_since=min((since for since, *_ in failures), default=None),
        reason=reason,
        message=message,
        slow=next((state.message for state in states if state.is_slow(utc_now())), ""),
        held=BoundedCount.build(sum(counted for counted, _ in waiting)),
        retried=number,
        loading=BoundedCount.build(sum(counted for counted, _ in loading)),
        load_since=load_since,
        oldest_received_at=min(times, default=None),
        last_write_at=whole.last_write_at,
        last_failure_at=max(
            (state.last_failure_at for state in states if state.last_failure_at), default=None
        ),
    )


def _read_retried(database: Database, sink: str) -> tuple[list[Any], BoundedCount]:
    """Return the retried deliveries by reason and message, the most frequent first, and their number."""
    failing = (
        select(sink_outcomes.c.delivery_id, sink_outcomes.c.reason, sink_outcomes.c.message)
        .where(IS_FAILING, sink_outcomes.c.sink == sink, sink_outcomes.c.held_scope.is_(None))
        .limit(_MAX_RETRIED + 1)
        .subquery()
    )
    is_pending = deliveries.c.settled_at.is_(None)
    cause, since = (failing.c.reason, failing.c.message), func.min(deliveries.c.received_at)
    statement = (
        select(*cause, is_pending.label("is_pending"), since.label("since"), func.count().label("number"))
        .select_from(failing.join(deliveries, deliveries.c.id == failing.c.delivery_id))
        .group_by(*cause, is_pending)
        .order_by(func.count().desc(), *cause)
    )
    rows = database.read(statement)
    # A delivery that became dead keeps its last outcome, and is not retried. It counts for the limit.
    retried = [row for row in rows if row.is_pending]
    number = sum(row.number for row in retried)
    # Nothing but dead ones: no alert on "more than none" that would never end.
    is_exact = not number or sum(row.number for row in rows) <= _MAX_RETRIED
    return retried, BoundedCount(min(number, _MAX_RETRIED), is_exact=is_exact)
