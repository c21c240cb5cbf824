"""The status of sinks: paused or failing, held deliveries, lag and last write."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import func, select

from app.database.engine import Database
from app.store.held import IS_FAILING, HeldDeliveries
from app.store.reasons import SET_UP_REASONS, Reason
from app.store.schema import deliveries, sink_outcomes
from app.store.sink_states import WHOLE_SINK, SinkState, SinkStates

# More are not counted: that would take long.
MAX_HELD = 10_000
_MAX_RETRIED = 1_000


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """The status of one sink.

    failing_since: None if it works. reason, message: of the failure; one that a person has to correct comes
    first. held: deliveries that wait for it, at most MAX_HELD. retried: other deliveries that it has not
    accepted yet, at most 1,000. oldest_received_at: of both; None if there are none.
    """

    sink: str
    paused_at: datetime | None = None
    paused_by: str = ""
    pause_reason: str = ""
    failing_since: datetime | None = None
    reason: str = ""
    message: str = ""
    held: int = 0
    retried: int = 0
    oldest_received_at: datetime | None = None
    last_write_at: datetime | None = None
    last_failure_at: datetime | None = None

    @property
    def state(self) -> str:
        """The state as one word: paused, failing or ok."""
        return "paused" if self.paused_at else "failing" if self.failing_since else "ok"

    def lag_s(self, now: datetime) -> float | None:
        """Return the age of the oldest delivery that the sink has not accepted; None if there is none."""
        return (now - self.oldest_received_at).total_seconds() if self.oldest_received_at else None

    @property
    def waiting(self) -> int:
        """The deliveries that the sink has not accepted yet, as far as they are counted."""
        return self.held + self.retried


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
    counts = [held.count(sink, scope, limit=MAX_HELD) for scope in scopes]
    retried = _read_retried(database, sink) if has_waiting else []
    failures = [(state.open_since, state.reason, state.message) for state in states if state.open_since]
    failures += [
        (row.since, row.reason, row.message) for row in retried if row.reason == Reason.INTERNAL_ERROR
    ]
    _, reason, message = min(
        failures, key=lambda failure: failure[1] not in SET_UP_REASONS, default=(0, "", "")
    )
    times = [*(oldest for _, oldest in counts if oldest), *(row.since for row in retried)]
    return SinkStatus(
        sink,
        paused_at=whole.paused_at,
        paused_by=whole.paused_by,
        pause_reason=whole.pause_reason,
        failing_since=min((since for since, *_ in failures), default=None),
        reason=reason,
        message=message,
        held=min(MAX_HELD, sum(number for number, _ in counts)),
        retried=sum(row.number for row in retried),
        oldest_received_at=min(times, default=None),
        last_write_at=whole.last_write_at,
        last_failure_at=max(
            (state.last_failure_at for state in states if state.last_failure_at), default=None
        ),
    )


def _read_retried(database: Database, sink: str) -> list[Any]:
    """Return the deliveries that are retried, by reason and message, the most frequent first."""
    # A delivery that became dead keeps its last outcome, and is not retried.
    retried = (
        select(sink_outcomes.c.reason, sink_outcomes.c.message, deliveries.c.received_at)
        .select_from(sink_outcomes.join(deliveries, deliveries.c.id == sink_outcomes.c.delivery_id))
        .where(
            IS_FAILING,
            sink_outcomes.c.sink == sink,
            sink_outcomes.c.held_scope.is_(None),
            deliveries.c.settled_at.is_(None),
        )
        .limit(_MAX_RETRIED)
        .subquery()
    )
    cause = (retried.c.reason, retried.c.message)
    statement = select(*cause, func.min(retried.c.received_at).label("since"), func.count().label("number"))
    return list(database.read(statement.group_by(*cause).order_by(func.count().desc(), *cause)))
