"""Deliveries taken up again: which, how far it has come, and what became of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, tuple_, update

from app.database.engine import Database
from app.errors import UnreadableDelivery
from app.store.delivery_filter import DeliveryFilter, where_clauses
from app.store.envelope_columns import to_columns
from app.store.inbox import Inbox
from app.store.models import DeliveryState
from app.store.schema import dead_records, deliveries, replays, sink_outcomes
from app.truto.events import read_envelope

_IS_UNREADABLE = and_(deliveries.c.state == DeliveryState.QUARANTINED, deliveries.c.event == "")


@dataclass(frozen=True, slots=True)
class Replay:
    """How far a replay has come. cursor: (received_at, id) of the last of its `deliveries`."""

    id: UUID
    started_at: datetime
    cursor: tuple[datetime, UUID] | None = None
    requeued_deliveries: int = 0


@dataclass(frozen=True, slots=True)
class PreviewGroup:
    """How many of a selection are of one resource, method and state. is_pruned: their bodies are gone."""

    resource: str
    method: str
    state: str
    is_pruned: bool
    deliveries: int


@dataclass(frozen=True, slots=True)
class ReplayCandidate:
    """A delivery that may be taken up."""

    id: UUID
    received_at: datetime
    is_unreadable: bool


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """How many that a replay took up are in a state. is_unreadable: those that no release could read yet."""

    state: str
    is_unreadable: bool
    deliveries: int


class Replays:
    """The replays table, and the deliveries it is about. Every method raises StoreUnavailable.

    Several processes may do the same replay at once: they share the work.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._inbox = Inbox(database)

    def find_unfinished(self, request: str) -> Replay | None:
        """Return the newest replay that was asked for in these words and broken off."""
        statement = (
            select(replays)
            .where(replays.c.request == request, replays.c.finished_at.is_(None))
            .order_by(replays.c.started_at.desc(), replays.c.id)
            .limit(1)
        )
        return self._read(statement)

    def start(self, request: str, *, now: datetime) -> Replay:
        """Start a replay; those broken off that were asked for in the same words will not be gone on with."""
        given_up = update(replays).where(replays.c.request == request, replays.c.finished_at.is_(None))
        replay = Replay(uuid4(), now)
        row = {"id": replay.id, "request": request, "started_at": now}
        with self._database.transaction() as connection:
            connection.execute(given_up.values(finished_at=now))
            connection.execute(insert(replays), row)
        return replay

    def refresh(self, replay: Replay) -> Replay:
        """Return how far a replay has come by now."""
        return self._read(select(replays).where(replays.c.id == replay.id)) or replay

    def finish(self, replay: Replay, *, now: datetime) -> None:
        """Note that nothing is left to do of it."""
        statement = update(replays).where(replays.c.id == replay.id).values(finished_at=now)
        self._database.execute(statement)

    def preview(
        self, delivery_filter: DeliveryFilter, *, after: tuple[datetime, UUID] | None
    ) -> list[PreviewGroup]:
        """Count what a selection holds behind a cursor."""
        is_pruned = deliveries.c.pruned_at.is_not(None)
        columns = (deliveries.c.resource, deliveries.c.method, deliveries.c.state, is_pruned)
        statement = (
            select(*columns, func.count())
            .where(*where_clauses(delivery_filter), *_after_cursor(after))
            .group_by(*columns)
            .order_by(*columns)
        )
        return [
            PreviewGroup(resource, method, state, is_pruned=bool(is_pruned), deliveries=count)
            for resource, method, state, is_pruned, count in self._database.read(statement)
        ]

    def find_candidates(
        self, delivery_filter: DeliveryFilter, *, after: tuple[datetime, UUID] | None, limit: int
    ) -> list[ReplayCandidate]:
        """Return the next of a selection behind a cursor that have a body, as they came."""
        place = (deliveries.c.received_at, deliveries.c.id)
        statement = (
            select(deliveries.c.id, deliveries.c.received_at, _IS_UNREADABLE)
            .where(*where_clauses(delivery_filter), HAS_BODY, *_after_cursor(after))
            .order_by(*place)
            .limit(limit)
        )
        return [
            ReplayCandidate(delivery_id, received_at, is_unreadable=bool(is_unreadable))
            for delivery_id, received_at, is_unreadable in self._database.read(statement)
        ]

    def requeue(
        self, replay: Replay, candidates: Sequence[ReplayCandidate], *, sink: str, now: datetime
    ) -> Replay | None:
        """Have workers deliver these again, and move the cursor behind them, in one transaction.

        candidates: as they follow the replay's cursor. sink: the only one to be written; "" for all.
        Returns None where another process has taken them up: then look again. What cannot be read stays as it
        is, and counts as taken up.
        """
        read_again = {
            candidate.id: self._read_envelope_columns(candidate.id)
            for candidate in candidates
            if candidate.is_unreadable
        }
        readable = {id_: columns for id_, columns in read_again.items() if columns}
        last = candidates[-1]
        with self._database.transaction() as connection:
            if not _move_cursor(connection, replay, last):
                return None
            ids = lock_finished(connection, [candidate.id for candidate in candidates])
            due = [id_ for id_ in ids if id_ not in read_again]
            mark_pending(connection, due, replay_id=replay.id, now=now)
            for id_ in ids:
                if id_ in readable:
                    mark_pending(
                        connection, [id_], replay_id=replay.id, now=now, envelope_columns=readable[id_]
                    )
            unreadable_ids = [id_ for id_ in ids if id_ in read_again and id_ not in readable]
            connection.execute(
                update(deliveries).where(deliveries.c.id.in_(unreadable_ids)).values(replay_id=replay.id)
            )
            delete_outcomes(connection, due, sink)
            done = update(replays).where(replays.c.id == replay.id)
            connection.execute(done.values(requeued_deliveries=replays.c.requeued_deliveries + len(ids)))
        return replace(
            replay,
            cursor=(last.received_at, last.id),
            requeued_deliveries=replay.requeued_deliveries + len(ids),
        )

    def count_pending(self, replay: Replay) -> int:
        """Return how many of those that were taken up workers have not settled yet."""
        if replay.cursor is None:
            return 0
        statement = select(func.count()).where(
            # Few: what is live came later than what is replayed.
            deliveries.c.settled_at.is_(None),
            deliveries.c.received_at <= replay.cursor[0],
            deliveries.c.replay_id == replay.id,
        )
        return int(self._database.read(statement)[0][0])

    def outcomes(self, replay: Replay, delivery_filter: DeliveryFilter) -> list[ReplayOutcome]:
        """Count by state what was taken up; selection: as it was chosen from."""
        where = [
            *where_clauses(replace(delivery_filter, states=(), reason="")),
            deliveries.c.replay_id == replay.id,
        ]
        columns = (deliveries.c.state, _IS_UNREADABLE)
        statement = select(*columns, func.count()).where(*where).group_by(*columns).order_by(*columns)
        return [
            ReplayOutcome(state, is_unreadable=bool(is_unreadable), deliveries=count)
            for state, is_unreadable, count in self._database.read(statement)
        ]

    def _read_envelope_columns(self, delivery_id: UUID) -> Mapping[str, Any] | None:
        """Return the columns of a delivery that could not be read when it came, if it can be read now."""
        try:
            return to_columns(read_envelope(self._inbox.read_body(delivery_id)))
        except (UnreadableDelivery, ValueError, KeyError):
            return None

    def _read(self, statement: Any) -> Replay | None:
        rows = self._database.read(statement)
        if not rows:
            return None
        [row] = rows
        cursor = (row.cursor_at, row.cursor_id) if row.cursor_id else None
        return Replay(row.id, row.started_at, cursor, row.requeued_deliveries)


def _after_cursor(cursor: tuple[datetime, UUID] | None) -> list[ColumnElement[bool]]:
    return [tuple_(deliveries.c.received_at, deliveries.c.id) > cursor] if cursor else []


def _move_cursor(connection: Connection, replay: Replay, last: ReplayCandidate) -> bool:
    """Move the cursor; False where another process has done so meanwhile."""
    cursor_id = replay.cursor[1] if replay.cursor else None
    statement = (
        update(replays)
        .where(replays.c.id == replay.id, replays.c.cursor_id.is_not_distinct_from(cursor_id))
        .values(cursor_at=last.received_at, cursor_id=last.id)
    )
    return connection.execute(statement).rowcount == 1


# Of deliveries that are named: see `app.store.pending`.
_IS_FINISHED = deliveries.c.state.concat("") != DeliveryState.PENDING
HAS_BODY = deliveries.c.pruned_at.is_(None)


def lock_finished(connection: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Return those that are at rest and still have a body; keep them so until the transaction ends."""
    statement = (
        select(deliveries.c.id)
        .where(deliveries.c.id.in_(ids), _IS_FINISHED, HAS_BODY)
        # In one order, so that two replays of the same deliveries cannot deadlock.
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
    """Make deliveries as pending as if they had just come. told: what is known of them only now."""
    statement = update(deliveries).where(deliveries.c.id.in_(ids))
    again = statement.values(
        state=DeliveryState.PENDING,
        settled_at=None,
        due_at=now,
        leased_until=None,
        leased_by="",
        lost_attempts=0,
        # Not 0: of a first attempt, no worker asks which sinks have it.
        attempts=1,
        reason="",
        discard_reason="",
        replay_id=replay_id,
        **(envelope_columns or {}),
    )
    connection.execute(again)


def delete_outcomes(connection: Connection, ids: Sequence[UUID], sink: str) -> None:
    """Delete what a sink, or every sink, made of deliveries, and which records were found dead."""
    forgotten = delete(sink_outcomes).where(sink_outcomes.c.delivery_id.in_(ids))
    dead = delete(dead_records).where(dead_records.c.delivery_id.in_(ids))
    if sink:
        forgotten = forgotten.where(sink_outcomes.c.sink == sink)
        # What could not be read is "" and is found again by every attempt.
        dead = dead.where(dead_records.c.sink.in_((sink, "")))
    connection.execute(forgotten)
    connection.execute(dead)
