"""The states of sinks that all processes share: pauses, breakers, last writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, delete, func, or_, select, update

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.held import SLOW_SCOPE
from app.store.reasons import Reason
from app.store.schema import sink_states

# The scope of a whole sink.
WHOLE_SINK = ""
_MAX_MESSAGE_CHARS = 1000


@dataclass(frozen=True, slots=True)
class SinkState:
    """The state of a sink, or of one table of a sink.

    scope: WHOLE_SINK, the table that rejects its records, or SLOW_SCOPE: its writes take long, which is true
    until retry_at, and no breaker is open. paused_by: the operator. open_since: its breaker
    is open, and no record is written except for trials. retry_at: of the next trial. failures: of trials so
    far, the failure that opened the breaker included. reason, message: of the last one. last_write_at: exact
    to a few seconds.
    """

    sink: str
    scope: str = WHOLE_SINK
    paused_at: datetime | None = None
    paused_by: str = ""
    pause_reason: str = ""
    open_since: datetime | None = None
    retry_at: datetime | None = None
    failures: int = 0
    reason: str = ""
    message: str = ""
    last_write_at: datetime | None = None
    last_failure_at: datetime | None = None

    def is_slow(self, now: datetime) -> bool:
        """Whether the state is that of a slow sink, and not too old."""
        return self.scope == SLOW_SCOPE and self.retry_at is not None and self.retry_at > now

    @property
    def holds(self) -> bool:
        """Whether deliveries for the sink are held."""
        return self.paused_at is not None or self.open_since is not None


class SinkStates:
    """The states of sinks. Every method is one statement and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> Sequence[SinkState]:
        """Return all states, by sink and scope."""
        statement = select(sink_states).order_by(sink_states.c.sink, sink_states.c.scope)
        return [SinkState(**row._mapping) for row in self._database.read(statement)]

    def is_paused(self, sink: str) -> bool:
        """Whether a person has paused a sink."""
        paused = select(sink_states.c.sink).where(_is(sink, WHOLE_SINK), sink_states.c.paused_at.is_not(None))
        return bool(self._database.read(paused))

    def pause(self, sink: str, *, by: str, reason: str, now: datetime) -> bool:
        """Pause a sink; return False if it is paused already."""
        row = {"paused_at": now, "paused_by": by, "pause_reason": reason}
        statement = insert_into(self._database.dialect.name, sink_states).on_conflict_do_update(
            index_elements=[sink_states.c.sink, sink_states.c.scope],
            set_=row,
            where=sink_states.c.paused_at.is_(None),
        )
        paused = statement.returning(sink_states.c.sink)
        return bool(self._database.read(paused, {"sink": sink, "scope": WHOLE_SINK, **row}))

    def resume(self, sink: str) -> bool:
        """End the pause of a sink; return False if it is not paused."""
        change = update(sink_states).where(_is(sink, WHOLE_SINK), sink_states.c.paused_at.is_not(None))
        return self._database.execute(change.values(paused_at=None, paused_by="", pause_reason="")) > 0

    def record_failure(self, state: SinkState, *, now: datetime) -> None:
        """Open a breaker, or delay its next trial.

        state: the scope, with retry_at, failures, reason and message of the failure. Several workers may
        record the failure that opens a breaker.
        """
        statement = insert_into(self._database.dialect.name, sink_states)
        new, stored = statement.excluded, sink_states.c
        is_closed = stored.open_since.is_(None)
        statement = statement.on_conflict_do_update(
            index_elements=[stored.sink, stored.scope],
            set_={
                "open_since": func.coalesce(stored.open_since, new.open_since),
                "failures": case(
                    (or_(is_closed, stored.failures < new.failures), new.failures), else_=stored.failures
                ),
                **{name: new[name] for name in ("retry_at", "reason", "message")},
                "last_failure_at": _newest(stored.last_failure_at, new.last_failure_at),
            },
        )
        row = {
            "sink": state.sink,
            "scope": state.scope,
            "open_since": now,
            "retry_at": state.retry_at,
            "failures": state.failures,
            "reason": state.reason,
            "message": state.message[:_MAX_MESSAGE_CHARS],
            "last_failure_at": now,
        }
        self._database.execute(statement, row)

    def record_slow(self, sink: str, *, until: datetime, message: str) -> None:
        """Store that a sink is slow, until a time or the next slow write. No breaker opens."""
        statement = insert_into(self._database.dialect.name, sink_states)
        changed = {name: statement.excluded[name] for name in ("retry_at", "reason", "message")}
        statement = statement.on_conflict_do_update(
            index_elements=[sink_states.c.sink, sink_states.c.scope], set_=changed
        )
        row = {"sink": sink, "scope": SLOW_SCOPE, "retry_at": until, "reason": Reason.SINK_SLOW}
        self._database.execute(statement, row | {"message": message})

    def claim_trial(self, state: SinkState, *, now: datetime, lease: timedelta) -> bool:
        """Claim the trial of an open breaker that is due; return False if another worker has it.

        lease: the next trial is due after it, if the worker dies.
        """
        is_due = (sink_states.c.open_since.is_not(None), sink_states.c.retry_at <= now)
        change = update(sink_states).where(_is(state.sink, state.scope), *is_due)
        return self._database.execute(change.values(retry_at=now + lease)) > 0

    def close(self, state: SinkState) -> bool:
        """Close a breaker, because a write succeeded; return False if it is closed already."""
        return self._close(state)

    def close_abandoned(self, state: SinkState) -> bool:
        """Close a breaker unless a worker has claimed or failed a trial since `state` was read."""
        return self._close(state, sink_states.c.retry_at == state.retry_at)

    def record_writes(self, written_at: Mapping[str, datetime]) -> None:
        """Store the times of the last writes, by sink; a newer time stays."""
        statement = insert_into(self._database.dialect.name, sink_states)
        newest = _newest(sink_states.c.last_write_at, statement.excluded.last_write_at)
        statement = statement.on_conflict_do_update(
            index_elements=[sink_states.c.sink, sink_states.c.scope], set_={"last_write_at": newest}
        )
        for sink, at in sorted(written_at.items()):
            self._database.execute(statement, {"sink": sink, "scope": WHOLE_SINK, "last_write_at": at})

    def _close(self, state: SinkState, *conditions: ColumnElement[bool]) -> bool:
        is_open = (_is(state.sink, state.scope), sink_states.c.open_since.is_not(None), *conditions)
        if state.scope != WHOLE_SINK:
            return self._database.execute(delete(sink_states).where(*is_open)) > 0
        change = update(sink_states).where(*is_open)
        closed = change.values(open_since=None, retry_at=None, failures=0, reason="", message="")
        return self._database.execute(closed) > 0


def _is(sink: str, scope: str) -> ColumnElement[bool]:
    return (sink_states.c.sink == sink) & (sink_states.c.scope == scope)


def _newest(stored: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    # The functions for the greater of two values treat NULL differently on the two databases.
    return case((or_(stored.is_(None), stored < new), new), else_=stored)
