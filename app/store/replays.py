"""Replays: requeue stored deliveries, with a cursor to resume at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)

from app.database.engine import Database
from app.database.upsert import insert_into
from app.errors import UnreadableDelivery
from app.store.bounded_count import BoundedCount, count_up_to
from app.store.delivery_filter import DeliveryFilter, where_clauses
from app.store.envelope_columns import to_columns
from app.store.inbox import Inbox
from app.store.models import DeliveryState, SinkOutcomeState
from app.store.requeue import HAS_BODY, delete_outcomes, lock_finished, mark_pending
from app.store.schema import dead_records, deliveries, replays, sink_outcomes, workers
from app.store.worker_registry import is_live
from app.truto.events import read_envelope

_IS_UNREADABLE = and_(deliveries.c.state == DeliveryState.QUARANTINED, deliveries.c.event == "")


@dataclass(frozen=True, slots=True)
class Replay:
    """The progress of a replay. cursor: (received_at, id) of the last requeued delivery."""

    id: UUID
    started_at: datetime
    cursor: tuple[datetime, UUID] | None = None
    requeued_deliveries: int = 0
    is_finished: bool = False


@dataclass(frozen=True, slots=True)
class PreviewGroup:
    """A number of deliveries that match, with equal resource, method and state. is_pruned: without bodies."""

    resource: str
    method: str
    state: str
    is_pruned: bool
    deliveries: int


@dataclass(frozen=True, slots=True)
class ReplayCandidate:
    """A delivery to replay. is_unreadable: no release could read its body yet."""

    id: UUID
    received_at: datetime
    is_unreadable: bool


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """A number of replayed deliveries in one state. is_unreadable: no release can read their bodies."""

    state: str
    is_unreadable: bool
    deliveries: int


@dataclass(frozen=True, slots=True)
class DeadRecordCounts:
    """Numbers of dead records, and of the deliveries that have them."""

    records: int = 0
    deliveries: int = 0


class Replays:
    """The replays and their deliveries. Every method raises StoreUnavailable.

    Several processes may run the same replay at once: they share its deliveries.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._inbox = Inbox(database)

    def find_unfinished(self, request: str) -> Replay | None:
        """Return the newest unfinished replay with the same request."""
        return _read_one(self._database.read(_select_unfinished(request)))

    def get(self, replay_id: UUID) -> Replay | None:
        """Return a replay with its current progress; None if there is none."""
        return _read_one(self._database.read(select(replays).where(replays.c.id == replay_id)))

    def find_outdated(
        self, ids: Sequence[UUID], *, config: str, started_at: datetime, now: datetime
    ) -> set[UUID]:
        """Return the replayed deliveries among these ids that a worker must leave to others.

        They are to be written by other routes or sinks than the worker's. It takes them only if it started
        after these were read, and no live worker has them: the configuration has then changed once more.
        """
        has_live_worker = exists().where(workers.c.digest == replays.c.config, is_live(now))
        statement = (
            select(deliveries.c.id)
            .join(replays, replays.c.id == deliveries.c.replay_id)
            .where(
                deliveries.c.id.in_(ids),
                replays.c.config.not_in(("", config)),
                or_(replays.c.config_at > started_at, has_live_worker),
            )
        )
        return {row.id for row in self._database.read(statement)} if ids else set()

    def count_written(self, replay: Replay, sink: str) -> int:
        """Return the number of a replay's deliveries that a sink has."""
        statement = (
            select(func.count())
            .select_from(deliveries.join(sink_outcomes, sink_outcomes.c.delivery_id == deliveries.c.id))
            .where(
                deliveries.c.replay_id == replay.id,
                sink_outcomes.c.sink == sink,
                sink_outcomes.c.state == SinkOutcomeState.DONE,
            )
        )
        return int(self._database.read(statement)[0][0])

    def refresh(self, replay: Replay) -> Replay:
        """Return a replay with its current progress."""
        return self.get(replay.id) or replay

    def preview(
        self, delivery_filter: DeliveryFilter, *, after: tuple[datetime, UUID] | None
    ) -> list[PreviewGroup]:
        """Count the deliveries that match, after a cursor."""
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

    def count_candidates(self, delivery_filter: DeliveryFilter, *, limit: int) -> BoundedCount:
        """Count the deliveries that match and have a body, up to a limit."""
        candidates = select(deliveries.c.id).where(*where_clauses(delivery_filter), HAS_BODY)
        [(counted,)] = self._database.read(select(count_up_to(candidates, limit=limit)))
        return BoundedCount.build(counted, limit)

    def find_candidates(
        self, delivery_filter: DeliveryFilter, *, after: tuple[datetime, UUID] | None, limit: int
    ) -> list[ReplayCandidate]:
        """Return the next deliveries that match and have a body, after a cursor, oldest first."""
        order = (deliveries.c.received_at, deliveries.c.id)
        statement = (
            select(deliveries.c.id, deliveries.c.received_at, _IS_UNREADABLE)
            .where(*where_clauses(delivery_filter), HAS_BODY, *_after_cursor(after))
            .order_by(*order)
            .limit(limit)
        )
        return [
            ReplayCandidate(delivery_id, received_at, is_unreadable=bool(is_unreadable))
            for delivery_id, received_at, is_unreadable in self._database.read(statement)
        ]

    def requeue(
        self, replay: Replay, candidates: Sequence[ReplayCandidate], *, sink: str, now: datetime
    ) -> Replay | None:
        """Make deliveries pending again and move the cursor after them, in one transaction.

        candidates: the next after the replay's cursor. sink: the only sink to write to; "" for all.
        Returns None if another process requeued them meanwhile, or the replay was cancelled: then refresh the
        replay. Unreadable deliveries keep their state, but are counted.
        """
        columns_by_id = {
            candidate.id: self._read_envelope_columns(candidate.id)
            for candidate in candidates
            if candidate.is_unreadable
        }
        readable = {id_: columns for id_, columns in columns_by_id.items() if columns}
        last = candidates[-1]
        with self._database.transaction() as connection:
            if not _move_cursor(connection, replay, last):
                return None
            ids = lock_finished(connection, [candidate.id for candidate in candidates])
            due = [id_ for id_ in ids if id_ not in columns_by_id]
            mark_pending(connection, due, replay_id=replay.id, now=now)
            for id_ in ids:
                if id_ in readable:
                    mark_pending(
                        connection, [id_], replay_id=replay.id, now=now, envelope_columns=readable[id_]
                    )
            unreadable_ids = [id_ for id_ in ids if id_ in columns_by_id and id_ not in readable]
            connection.execute(
                update(deliveries).where(deliveries.c.id.in_(unreadable_ids)).values(replay_id=replay.id)
            )
            delete_outcomes(connection, due, sink)
            progress = update(replays).where(replays.c.id == replay.id)
            connection.execute(progress.values(requeued_deliveries=replays.c.requeued_deliveries + len(ids)))
        return replace(
            replay,
            cursor=(last.received_at, last.id),
            requeued_deliveries=replay.requeued_deliveries + len(ids),
        )

    def count_pending(self, replay: Replay) -> int:
        """Return the number of a replay's deliveries that are still pending."""
        statement = select(func.count()).where(
            deliveries.c.replay_id == replay.id, _has_state(DeliveryState.PENDING)
        )
        return int(self._database.read(statement)[0][0])

    def outcomes(self, replay_id: UUID) -> list[ReplayOutcome]:
        """Count a replay's deliveries by state."""
        columns = (deliveries.c.state, _IS_UNREADABLE)
        where = deliveries.c.replay_id == replay_id
        statement = select(*columns, func.count()).where(where).group_by(*columns).order_by(*columns)
        return [
            ReplayOutcome(state, is_unreadable=bool(is_unreadable), deliveries=count)
            for state, is_unreadable, count in self._database.read(statement)
        ]

    def count_states(self, replay_id: UUID) -> dict[str, BoundedCount]:
        """Return the number of a replay's deliveries by state."""
        of_replay = select(deliveries.c.id).where(deliveries.c.replay_id == replay_id)
        numbers = [count_up_to(of_replay.where(_has_state(state))).label(state) for state in DeliveryState]
        [row] = self._database.read(select(*numbers))
        return {state: BoundedCount.build(number) for state, number in row._asdict().items() if number}

    def count_dead_records(self, replay: Replay, *, sink: str = "") -> DeadRecordCounts:
        """Count the dead records of a replay's settled deliveries.

        sink: only unreadable records and those of this sink; "" for all.
        """
        statement = (
            select(func.count(), func.count(dead_records.c.delivery_id.distinct()))
            .select_from(dead_records.join(deliveries, deliveries.c.id == dead_records.c.delivery_id))
            .where(
                deliveries.c.replay_id == replay.id,
                deliveries.c.state == DeliveryState.SETTLED,
                dead_records.c.discard_reason == "",
            )
        )
        if sink:
            statement = statement.where(dead_records.c.sink.in_((sink, "")))
        return DeadRecordCounts(*self._database.read(statement)[0])

    def _read_envelope_columns(self, delivery_id: UUID) -> Mapping[str, Any] | None:
        """Return the envelope columns of an unreadable delivery; None if it is still unreadable."""
        try:
            return to_columns(read_envelope(self._inbox.read_body(delivery_id)))
        except (UnreadableDelivery, ValueError, KeyError):
            return None


def find_unfinished_replay(connection: Connection, request: str) -> Replay | None:
    """Return the newest unfinished replay with the same request, in the caller's transaction."""
    return _read_one(connection.execute(_select_unfinished(request)).all())


def close_earlier_replays(connection: Connection, request: str, *, keep: UUID, now: datetime) -> None:
    """Finish the unfinished replays with the same request but one, in the caller's transaction."""
    unfinished = update(replays).where(
        replays.c.request == request, replays.c.finished_at.is_(None), replays.c.id != keep
    )
    connection.execute(unfinished.values(finished_at=now))


def save_replay(connection: Connection, replay: Replay, request: str, *, config: str, now: datetime) -> None:
    """Insert a replay in the caller's transaction, or change the configuration that its workers have to use.

    config: the digest of the routes and sinks; "" for any.
    """
    row = {
        "id": replay.id,
        "request": request,
        "started_at": replay.started_at,
        "config": config,
        "config_at": now,
    }
    statement = insert_into(connection.dialect.name, replays).on_conflict_do_update(
        index_elements=[replays.c.id], set_={"config": config, "config_at": now}
    )
    connection.execute(statement, row)


def _select_unfinished(request: str) -> Select[Any]:
    return (
        select(replays)
        .where(replays.c.request == request, replays.c.finished_at.is_(None))
        .order_by(replays.c.started_at.desc(), replays.c.id)
        .limit(1)
    )


def _read_one(rows: Sequence[Row[Any]]) -> Replay | None:
    if not rows:
        return None
    [row] = rows
    cursor = (row.cursor_at, row.cursor_id) if row.cursor_id else None
    is_finished = row.finished_at is not None
    return Replay(row.id, row.started_at, cursor, row.requeued_deliveries, is_finished)


def _has_state(state: DeliveryState) -> ColumnElement[bool]:
    """Return the condition on the state of a replay's deliveries, for the index on replay and state.

    Not an equation: if its statistics are old, PostgreSQL would search the index on all pending deliveries.
    """
    return deliveries.c.state.in_((state, ""))


def _after_cursor(cursor: tuple[datetime, UUID] | None) -> list[ColumnElement[bool]]:
    return [tuple_(deliveries.c.received_at, deliveries.c.id) > cursor] if cursor else []


def _move_cursor(connection: Connection, replay: Replay, last: ReplayCandidate) -> bool:
    """Move the cursor; return False if another process moved it meanwhile, or the replay was cancelled."""
    cursor_id = replay.cursor[1] if replay.cursor else None
    statement = (
        update(replays)
        .where(
            replays.c.id == replay.id,
            replays.c.finished_at.is_(None),
            replays.c.cursor_id.is_not_distinct_from(cursor_id),
        )
        .values(cursor_at=last.received_at, cursor_id=last.id)
    )
    return connection.execute(statement).rowcount == 1
