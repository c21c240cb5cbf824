"""Deliveries taken up again: which, how far it has come, and what became of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, and_, func, insert, select, tuple_, update

from app.database.engine import Store, one_statement, store_faults
from app.errors import UnreadableDelivery
from app.store.delivery_filter import Selection, conditions
from app.store.inbox import Inbox
from app.store.schema import deliveries, replays
from app.store.taking_up import HAS_BODY, forget, lock_at_rest, make_due
from app.truto.events import read_envelope

_IS_UNREADABLE = and_(deliveries.c.state == "quarantined", deliveries.c.event == "")


@dataclass(frozen=True, slots=True)
class Replay:
    """How far a replay has come. cursor: (received_at, id) of the last of its `deliveries`."""

    id: UUID
    started_at: datetime
    cursor: tuple[datetime, UUID] | None = None
    deliveries: int = 0


@dataclass(frozen=True, slots=True)
class Prospect:
    """How many of a selection are of one resource, method and state. is_pruned: their bodies are gone."""

    resource: str
    method: str
    state: str
    is_pruned: bool
    deliveries: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A delivery that may be taken up."""

    id: UUID
    received_at: datetime
    is_unreadable: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """How many that a replay took up are in a state. is_unreadable: those that no release could read yet."""

    state: str
    is_unreadable: bool
    deliveries: int


class Replays:
    """The replays table, and the deliveries it is about. Every method raises StoreUnavailable.

    Several processes may do the same replay at once: they share the work.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._inbox = Inbox(store)

    def unfinished(self, asked: str) -> Replay | None:
        """Return the newest replay that was asked for in these words and broken off."""
        statement = (
            select(replays)
            .where(replays.c.asked == asked, replays.c.finished_at.is_(None))
            .order_by(replays.c.started_at.desc(), replays.c.id)
            .limit(1)
        )
        return self._read(statement)

    def begin(self, asked: str, *, now: datetime) -> Replay:
        """Start a replay; those broken off that were asked for in the same words will not be gone on with."""
        given_up = update(replays).where(replays.c.asked == asked, replays.c.finished_at.is_(None))
        replay = Replay(uuid4(), now)
        row = {"id": replay.id, "asked": asked, "started_at": now}
        with store_faults(), self._store.begin() as connection:
            connection.execute(given_up.values(finished_at=now))
            connection.execute(insert(replays), row)
        return replay

    def look_again(self, replay: Replay) -> Replay:
        """Return how far a replay has come by now."""
        return self._read(select(replays).where(replays.c.id == replay.id)) or replay

    def finish(self, replay: Replay, *, now: datetime) -> None:
        """Note that nothing is left to do of it."""
        statement = update(replays).where(replays.c.id == replay.id).values(finished_at=now)
        with store_faults(), one_statement(self._store) as connection:
            connection.execute(statement)

    def prospects(self, selection: Selection, *, after: tuple[datetime, UUID] | None) -> list[Prospect]:
        """Count what a selection holds behind a cursor."""
        is_pruned = deliveries.c.pruned_at.is_not(None)
        columns = (deliveries.c.resource, deliveries.c.method, deliveries.c.state, is_pruned)
        statement = (
            select(*columns, func.count())
            .where(*conditions(selection), *_behind(after))
            .group_by(*columns)
            .order_by(*columns)
        )
        with store_faults(), one_statement(self._store) as connection:
            rows = connection.execute(statement).all()
        return [
            Prospect(resource, method, state, bool(gone), number)
            for resource, method, state, gone, number in rows
        ]

    def candidates(
        self, selection: Selection, *, after: tuple[datetime, UUID] | None, most: int
    ) -> list[Candidate]:
        """Return the next of a selection behind a cursor that have a body, as they came."""
        place = (deliveries.c.received_at, deliveries.c.id)
        statement = (
            select(deliveries.c.id, deliveries.c.received_at, _IS_UNREADABLE)
            .where(*conditions(selection), HAS_BODY, *_behind(after))
            .order_by(*place)
            .limit(most)
        )
        with store_faults(), one_statement(self._store) as connection:
            rows = connection.execute(statement).all()
        return [Candidate(id_, received_at, bool(unreadable)) for id_, received_at, unreadable in rows]

    def take_up(
        self, replay: Replay, candidates: Sequence[Candidate], *, sink: str, now: datetime
    ) -> Replay | None:
        """Have workers deliver these again, and move the cursor behind them, in one transaction.

        candidates: as they follow the replay's cursor. sink: the only one to be written; "" for all.
        Returns None where another process has taken them up: then look again. What cannot be read stays as it
        is, and counts as taken up.
        """
        read_again = {each.id: self._read_again(each.id) for each in candidates if each.is_unreadable}
        readable = {id_: told for id_, told in read_again.items() if told}
        last = candidates[-1]
        with store_faults(), self._store.begin() as connection:
            if not _move(connection, replay, last):
                return None
            ids = lock_at_rest(connection, [each.id for each in candidates])
            due = [id_ for id_ in ids if id_ not in read_again]
            make_due(connection, due, replay_id=replay.id, now=now)
            for id_ in ids:
                if id_ in readable:
                    make_due(connection, [id_], replay_id=replay.id, now=now, told=readable[id_])
            unread = [id_ for id_ in ids if id_ in read_again and id_ not in readable]
            connection.execute(
                update(deliveries).where(deliveries.c.id.in_(unread)).values(replay_id=replay.id)
            )
            forget(connection, due, sink)
            done = update(replays).where(replays.c.id == replay.id)
            connection.execute(done.values(deliveries=replays.c.deliveries + len(ids)))
        return replace(replay, cursor=(last.received_at, last.id), deliveries=replay.deliveries + len(ids))

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
        with store_faults(), one_statement(self._store) as connection:
            return int(connection.execute(statement).scalar_one())

    def endings(self, replay: Replay, selection: Selection) -> list[Ending]:
        """Count by state what was taken up; selection: as it was chosen from."""
        where = [*conditions(replace(selection, states=(), reason="")), deliveries.c.replay_id == replay.id]
        columns = (deliveries.c.state, _IS_UNREADABLE)
        statement = select(*columns, func.count()).where(*where).group_by(*columns).order_by(*columns)
        with store_faults(), one_statement(self._store) as connection:
            return [Ending(state, bool(unread), n) for state, unread, n in connection.execute(statement)]

    def _read_again(self, delivery_id: UUID) -> Mapping[str, Any] | None:
        """Return the columns of a delivery that could not be read when it came, if it can be read now."""
        try:
            envelope = read_envelope(self._inbox.read_body(delivery_id))
        except (UnreadableDelivery, ValueError, KeyError):
            return None
        return {name: getattr(envelope, name) for name in envelope.__slots__}

    def _read(self, statement: Any) -> Replay | None:
        with store_faults(), one_statement(self._store) as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            return None
        cursor = (row.cursor_at, row.cursor_id) if row.cursor_id else None
        return Replay(row.id, row.started_at, cursor, row.deliveries)


def _behind(cursor: tuple[datetime, UUID] | None) -> list[ColumnElement[bool]]:
    return [tuple_(deliveries.c.received_at, deliveries.c.id) > cursor] if cursor else []


def _move(connection: Connection, replay: Replay, last: Candidate) -> bool:
    """Move the cursor; False where another process has done so meanwhile."""
    seen = replay.cursor[1] if replay.cursor else None
    statement = (
        update(replays)
        .where(replays.c.id == replay.id, replays.c.cursor_id.is_not_distinct_from(seen))
        .values(cursor_at=last.received_at, cursor_id=last.id)
    )
    return connection.execute(statement).rowcount == 1
