"""Operations: long work that a process carries out in the background, one at a time for each request."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select, tuple_, update

from app.database.engine import Database
from app.database.upsert import insert_into
from app.errors import OperationRefused
from app.store.replays import Replay, close_earlier_replays, find_unfinished_replay, save_replay
from app.store.schema import operations, replays

# More would be a mistake: each waits for the attention of its operator.
MAX_UNFINISHED = 100
# Longer than a page of work takes. Another process continues after a crash when the lease has ended.
LEASE_S = 10.0
_IS_UNFINISHED = operations.c.finished_at.is_(None)


class OperationKind(StrEnum):
    """The kinds of operations."""

    REPLAY = "replay"
    DISCARD = "discard"
    DISCARD_RECORDS = "discard_records"


class OperationState(StrEnum):
    """The states of an operation. All but the first two are final."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Requester:
    """The origin of a request. name: such as "dashboard". address: of the client, or the host's name."""

    name: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation and its progress.

    request: JSON. total: deliveries, or records of DISCARD_RECORDS; None while unknown. done: settled
    deliveries of a replay, discarded ones otherwise. cursor: of a discard, (received_at, id) of the last
    delivery that it read. leased_by: the process that carries it out. error: "" unless it failed.
    """

    id: UUID
    kind: OperationKind
    state: OperationState
    request: str
    requested_by: str
    requested_from: str
    requested_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    total: int | None = None
    done: int = 0
    cursor: tuple[datetime, UUID] | None = None
    leased_by: str = ""
    leased_until: datetime | None = None
    error: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether it has ended: finished, cancelled or failed."""
        return self.finished_at is not None


@dataclass(frozen=True, slots=True)
class NewOperation:
    """An operation to start.

    request: JSON, with absolute times. key: the request as it was made; equal keys are the same request.
    config: the digest of the routes and sinks that workers must use for a replay; "" for any.
    """

    kind: OperationKind
    request: str
    key: str
    requester: Requester
    total: int | None = None
    config: str = ""

    @property
    def digest(self) -> str:
        """A short text that is equal for the same request."""
        return hashlib.sha256(f"{self.kind}\n{self.key}".encode()).hexdigest()


class Operations:
    """The operations. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, new: NewOperation, *, now: datetime, restart: bool = False) -> Operation:
        """Queue an operation, or return the unfinished one with the same request.

        A replay that an earlier release left unfinished keeps its id, cursor and time. restart: cancel the
        unfinished one first. Raises OperationRefused if too many are unfinished.
        """
        while True:
            with self._database.transaction() as connection:
                # Operations before replays, as at their end: otherwise, both could deadlock.
                if restart:
                    _end_operations(connection, _is_same(new), OperationState.CANCELLED, now=now)
                self._insert(connection, new, continues=not restart, now=now)
                same = select(operations).where(_is_same(new)).with_for_update()
                if rows := connection.execute(same).all():
                    if new.kind == OperationKind.REPLAY:
                        replay = Replay(rows[0].id, rows[0].requested_at)
                        close_earlier_replays(connection, new.key, keep=replay.id, now=now)
                        # Workers deliver by the routes of the newest request.
                        save_replay(connection, replay, new.key, config=new.config, now=now)
                    return _to_operation(rows[0])
            # Another process inserted the same request, and has finished it.

    def _insert(self, connection: Connection, new: NewOperation, *, continues: bool, now: datetime) -> None:
        """Insert an operation, unless the same request is unfinished."""
        is_replay = new.kind == OperationKind.REPLAY
        replay = find_unfinished_replay(connection, new.key) if is_replay and continues else None
        row = {
            "id": replay.id if replay else uuid4(),
            "kind": new.kind,
            "state": OperationState.QUEUED,
            "request": new.request,
            "request_digest": new.digest,
            "requested_by": new.requester.name,
            "requested_from": new.requester.address,
            "requested_at": replay.started_at if replay else now,
            "total": new.total,
            "done": replay.requeued_deliveries if replay else 0,
        }
        # Two people at the same moment: the index on unfinished requests lets one of them insert.
        insert = insert_into(self._database.dialect.name, operations).on_conflict_do_nothing()
        if connection.execute(insert.returning(operations.c.id), row).all():
            _check_number(connection)

    def get(self, operation_id: UUID) -> Operation | None:
        """Return an operation; None if there is none."""
        rows = self._database.read(select(operations).where(operations.c.id == operation_id))
        return _to_operation(rows[0]) if rows else None

    def list_newest(self, *, after: tuple[datetime, UUID] | None = None, limit: int) -> list[Operation]:
        """Return operations, newest first. after: (requested_at, id) of the last one of the page before."""
        order = (operations.c.requested_at, operations.c.id)
        statement = select(operations).order_by(*(column.desc() for column in order)).limit(limit)
        if after:
            statement = statement.where(tuple_(*order) < after)
        return [_to_operation(row) for row in self._database.read(statement)]

    def list_unfinished(self) -> list[Operation]:
        """Return all operations that have not ended, oldest first."""
        statement = select(operations).where(_IS_UNFINISHED)
        statement = statement.order_by(operations.c.requested_at, operations.c.id).limit(MAX_UNFINISHED)
        return [_to_operation(row) for row in self._database.read(statement)]

    def lease(self, operation_id: UUID, *, owner: str, now: datetime) -> Operation | None:
        """Lease an unfinished operation for LEASE_S seconds, or renew its lease.

        Returns None if it has ended, or another process has it.
        """
        is_free = or_(
            operations.c.leased_by.in_((owner, "")),
            operations.c.leased_until.is_(None),
            operations.c.leased_until <= now,
        )
        statement = (
            update(operations)
            .where(operations.c.id == operation_id, _IS_UNFINISHED, is_free)
            .values(
                state=OperationState.RUNNING,
                started_at=func.coalesce(operations.c.started_at, now),
                leased_by=owner,
                leased_until=now + timedelta(seconds=LEASE_S),
            )
            .returning(*operations.c)
        )
        rows = self._database.read(statement)
        return _to_operation(rows[0]) if rows else None

    def release(self, operation_id: UUID, *, owner: str) -> None:
        """End the lease of a process, so that another one continues at once."""
        statement = update(operations).where(operations.c.id == operation_id, operations.c.leased_by == owner)
        self._database.execute(statement.values(leased_by="", leased_until=None))

    def save_progress(
        self, operation: Operation, *, done: int | None = None, total: int | None = None
    ) -> None:
        """Write the progress of an unfinished operation, if its lease is still the one in `operation`.

        None leaves a number unchanged.
        """
        values = {name: value for name, value in (("done", done), ("total", total)) if value is not None}
        if values:
            statement = update(operations).where(_has_lease(operation), _IS_UNFINISHED)
            self._database.execute(statement.values(**values))

    def finish(self, operation: Operation, *, now: datetime, error: str = "") -> bool:
        """End an operation, and its replay, if its lease is still the one in `operation`; return whether.

        error: of one that failed.
        """
        state = OperationState.FAILED if error else OperationState.FINISHED
        with self._database.transaction() as connection:
            return _end(connection, _has_lease(operation), state, now=now, error=error)

    def cancel(self, operation_id: UUID, *, now: datetime) -> bool:
        """Cancel an operation; return False if it had ended already.

        Its completed pages stay. Deliveries that a replay has requeued are delivered.
        """
        with self._database.transaction() as connection:
            return _end(connection, operations.c.id == operation_id, OperationState.CANCELLED, now=now)


def move_cursor(connection: Connection, operation: Operation, cursor: tuple[datetime, UUID]) -> bool:
    """Move the cursor of a discard in the caller's transaction.

    Returns False if it has ended, or another process has moved the cursor meanwhile.
    """
    cursor_id = operation.cursor[1] if operation.cursor else None
    statement = (
        update(operations)
        .where(
            operations.c.id == operation.id,
            _IS_UNFINISHED,
            operations.c.cursor_id.is_not_distinct_from(cursor_id),
        )
        .values(cursor_at=cursor[0], cursor_id=cursor[1])
    )
    return connection.execute(statement).rowcount == 1


def add_done(connection: Connection, operation_id: UUID, number: int) -> None:
    """Add to the progress of a discard, in the transaction that moved its cursor."""
    statement = update(operations).where(operations.c.id == operation_id)
    connection.execute(statement.values(done=operations.c.done + number))


def _check_number(connection: Connection) -> None:
    number = connection.execute(
        select(func.count()).select_from(operations).where(_IS_UNFINISHED)
    ).scalar_one()
    if number > MAX_UNFINISHED:
        raise OperationRefused(
            f"{MAX_UNFINISHED} operations are unfinished, which is the limit. Wait until one has ended, or "
            "cancel one. To list them, run: rapidbridge operations list"
        )


def _is_same(new: NewOperation) -> ColumnElement[bool]:
    return and_(_IS_UNFINISHED, operations.c.request_digest == new.digest)


def _has_lease(operation: Operation) -> ColumnElement[bool]:
    return and_(operations.c.id == operation.id, operations.c.leased_by == operation.leased_by)


def _end(
    connection: Connection,
    condition: ColumnElement[bool],
    state: OperationState,
    *,
    now: datetime,
    error: str = "",
) -> bool:
    """End the operations that match, and their replays; return whether any was unfinished."""
    ids = _end_operations(connection, condition, state, now=now, error=error)
    is_open = and_(replays.c.id.in_(ids), replays.c.finished_at.is_(None))
    connection.execute(update(replays).where(is_open).values(finished_at=now))
    return bool(ids)


def _end_operations(
    connection: Connection,
    condition: ColumnElement[bool],
    state: OperationState,
    *,
    now: datetime,
    error: str = "",
) -> Sequence[UUID]:
    values: dict[str, Any] = {"state": state, "finished_at": now, "error": error}
    if state == OperationState.FINISHED:
        # A number that was too large to count is known now.
        values["total"] = func.coalesce(operations.c.total, operations.c.done)
    statement = update(operations).where(condition, _IS_UNFINISHED)
    ended = statement.values(**values, leased_by="", leased_until=None).returning(operations.c.id)
    return connection.execute(ended).scalars().all()


def _to_operation(row: Row[Any]) -> Operation:
    return Operation(
        id=row.id,
        kind=OperationKind(row.kind),
        state=OperationState(row.state),
        request=row.request,
        requested_by=row.requested_by,
        requested_from=row.requested_from,
        requested_at=row.requested_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        total=row.total,
        done=row.done,
        cursor=(row.cursor_at, row.cursor_id) if row.cursor_id else None,
        leased_by=row.leased_by,
        leased_until=row.leased_until,
        error=row.error,
    )
