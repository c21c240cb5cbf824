"""Delete checks: rows that a run did not see, marked or held back."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    and_,
    delete,
    func,
    literal_column,
    or_,
    select,
    update,
)

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.bounded_count import COUNT_LIMIT, BoundedCount
from app.store.notifications import Notification, insert_notification
from app.store.schema import delete_checks, deliveries, runs

KEPT_FOR = timedelta(days=90)
# Warnings name a held check for that long: a sync job that never runs again leaves its last one.
HELD_FOR = timedelta(days=7)
# Longer than a statement of the sink may take. Another process continues after a crash.
LEASE = timedelta(seconds=60)
_MAX_MESSAGE_CHARS = 1000
_MAX_IDS = 1000
_CHECK = delete_checks.c


class DeleteCheckState(StrEnum):
    """The states of a delete check. A held one becomes due by an approval, or if its run is counted again."""

    DUE = "due"
    HELD_BACK = "held_back"
    DONE = "done"
    SUPERSEDED = "superseded"


class HoldReason(StrEnum):
    """The reasons why no row is marked.

    The last three are those of a due check, which waits; the two before them those of a superseded one.
    """

    UNIDENTIFIED = "unidentified"
    NOT_COMPLETED = "not_completed"
    INCOMPLETE = "incomplete"
    INCREMENTAL = "incremental"
    RECORD_ERRORS = "record_errors"
    ERRORS_NOT_SENT = "errors_not_sent"
    DEAD_RECORDS = "dead_records"
    SURPLUS = "surplus"
    NOT_WRITTEN = "not_written"
    OVER_SHARE = "over_share"
    NOT_TRACKED = "not_tracked"
    NEWER_RUN = "newer_run"
    PENDING = "pending"
    SINK_PAUSED = "sink_paused"
    SINK_UNAVAILABLE = "sink_unavailable"


@dataclass(frozen=True, slots=True)
class DeleteCheck:
    """One delete check; the columns are described in `schema`."""

    id: UUID
    sync_job_run_id: str
    sync_job_id: str
    integrated_account_id: str
    resource: str
    method: str
    sink: str
    route_table: str
    began_at: datetime
    created_at: datetime
    state: DeleteCheckState
    reason: str
    due_at: datetime
    message: str = ""
    leased_by: str = ""
    live_rows: int | None = None
    unseen_rows: int | None = None
    marked_rows: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    approved_by: str = ""
    approved_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class HeldDeleteChecks:
    """Numbers of checks that are held back. approvable: of the newest COUNT_LIMIT + 1 ones."""

    total: BoundedCount
    approvable: int


_COLUMNS = [_CHECK[name] for name in DeleteCheck.__dataclass_fields__]
# Constants: the databases use a partial index only for a query that repeats its predicate.
_IS_DUE = _CHECK.state == literal_column("'due'")
_IS_HELD = _CHECK.state == literal_column("'held_back'")
# Nothing to correct: a job may fetch changes by the hour, and everything by night.
_IS_INCREMENTAL = _CHECK.reason == HoldReason.INCREMENTAL


def make_check_id(run_id: str, resource: str, route_table: str, sink: str) -> UUID:
    """Return the id of a check: a run has one for each resource, table and sink."""
    name = json.dumps([run_id, resource, route_table, sink])
    return UUID(bytes=hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:16])


def save_delete_checks(connection: Connection, checks: Sequence[DeleteCheck], *, now: datetime) -> None:
    """Store the checks of a reconciled run in the caller's transaction.

    A run that is reconciled again decides its checks again, except those that are done.
    """
    statement = insert_into(connection.dialect.name, delete_checks)
    decided = ("began_at", "state", "reason", "message", "due_at", "leased_by")
    statement = statement.on_conflict_do_update(
        index_elements=[_CHECK.id],
        set_={name: statement.excluded[name] for name in decided},
        where=_CHECK.state.in_((DeleteCheckState.DUE, DeleteCheckState.HELD_BACK)),
    )
    # In one order, so that two processes cannot deadlock.
    for check in sorted(checks, key=lambda check: check.id):
        connection.execute(statement, {name: getattr(check, name) for name in DeleteCheck.__slots__})
        connection.execute(_supersede(HoldReason.NEWER_RUN, now).where(*_list_outdated(check)))


class DeleteChecks:
    """The delete checks. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, check_id: UUID) -> DeleteCheck | None:
        """Return a check; None if it is unknown."""
        return next(iter(self._read(_CHECK.id == check_id, limit=1)), None)

    def list_newest(self, *, limit: int, is_held: bool = False) -> list[DeleteCheck]:
        """Return the newest checks. is_held: only those that are held back."""
        return self._read(*([_IS_HELD] if is_held else []), limit=limit)

    def list_held(self, *, limit: int, since: datetime) -> list[DeleteCheck]:
        """Return the newest checks of runs since a time that are held back, and not for being incremental."""
        return self._read(_IS_HELD, ~_IS_INCREMENTAL, _CHECK.created_at >= since, limit=limit)

    def list_of_run(self, run_id: str, *, limit: int) -> list[DeleteCheck]:
        """Return the checks of a run."""
        return self._read(_CHECK.sync_job_run_id == run_id, limit=limit)

    def list_due(self, *, now: datetime, limit: int) -> list[DeleteCheck]:
        """Return the checks that a process may carry out now, those due for longest first."""
        return self._read(_is_due(now), limit=limit, order=(_CHECK.due_at, _CHECK.id))

    def count_held(self, *, since: datetime) -> HeldDeleteChecks:
        """Return the numbers of the checks that `list_held` lists."""
        newest = (
            select(_CHECK.reason)
            .where(_IS_HELD, ~_IS_INCREMENTAL, _CHECK.created_at >= since)
            .order_by(_CHECK.created_at.desc())
            .limit(COUNT_LIMIT + 1)
            .subquery()
        )
        rows = self._database.read(select(newest.c.reason, func.count()).group_by(newest.c.reason))
        numbers = {reason: int(number) for reason, number in rows}
        return HeldDeleteChecks(
            BoundedCount.build(sum(numbers.values())), numbers.get(HoldReason.OVER_SHARE, 0)
        )

    def lease(self, check_id: UUID, *, owner: str, now: datetime) -> DeleteCheck | None:
        """Lease a due check; None if another process has it, or it is no longer due."""
        change = update(delete_checks).where(_CHECK.id == check_id, _is_due(now))
        leased = change.values(leased_by=owner, due_at=now + LEASE).returning(*_COLUMNS)
        return next((DeleteCheck(*row) for row in self._database.read(leased)), None)

    def renew(self, check: DeleteCheck, *, now: datetime) -> bool:
        """Extend the lease; return False if the check is no longer this process's."""
        return self._change(check, due_at=now + LEASE)

    def start(self, check: DeleteCheck, *, live_rows: int, unseen_rows: int, now: datetime) -> bool:
        """Begin to mark; return False if the check is no longer this process's."""
        counts = {"live_rows": live_rows, "unseen_rows": unseen_rows}
        return self._change(check, **counts, started_at=now, reason="", message="", due_at=now + LEASE)

    def postpone(self, check: DeleteCheck, reason: HoldReason, *, message: str = "", until: datetime) -> bool:
        """Let a check wait, because nothing can be marked now."""
        return self._change(
            check, reason=reason, message=message[:_MAX_MESSAGE_CHARS], due_at=until, leased_by=""
        )

    def finish(self, check: DeleteCheck, *, marked_rows: int, now: datetime) -> bool:
        """End a check whose rows are all marked."""
        ended = {"state": DeleteCheckState.DONE, "finished_at": now, "leased_by": ""}
        return self._change(check, **ended, marked_rows=marked_rows, reason="", message="")

    def hold_back(self, check: DeleteCheck, *, notification: Notification) -> bool:
        """Hold a check back with its reason and counts, and add the notification of it."""
        with self._database.transaction() as connection:
            change = _update_leased(check).values(
                state=DeleteCheckState.HELD_BACK,
                reason=check.reason,
                message="",
                leased_by="",
                live_rows=check.live_rows,
                unseen_rows=check.unseen_rows,
            )
            is_held = connection.execute(change).rowcount > 0
            if is_held:
                insert_notification(connection, notification, closed_at=notification.occurred_at)
        return is_held

    def supersede(self, check: DeleteCheck, reason: HoldReason, *, now: datetime) -> bool:
        """End a check without marks: a later run decides."""
        statement = _supersede(reason, now).where(_CHECK.id == check.id, _CHECK.leased_by == check.leased_by)
        return self._database.execute(statement.where(_CHECK.state == DeleteCheckState.DUE)) > 0

    def approve(self, check_id: UUID, *, by: str, now: datetime) -> bool:
        """Make a check due that is held back only for its share; return False for any other."""
        change = update(delete_checks).where(
            _CHECK.id == check_id,
            _IS_HELD,
            _CHECK.reason == HoldReason.OVER_SHARE,
        )
        approved = {"approved_by": by, "approved_at": now, "due_at": now, "reason": ""}
        return self._database.execute(change.values(state=DeleteCheckState.DUE, **approved)) > 0

    def has_pending(self, check: DeleteCheck, *, until: datetime) -> bool:
        """Whether a delivery of the account and resource, received until a time, is pending."""
        is_pending = and_(
            deliveries.c.settled_at.is_(None),
            # Its account may not be known yet.
            deliveries.c.integrated_account_id.in_((check.integrated_account_id, "")),
            deliveries.c.resource == check.resource,
            deliveries.c.received_at <= until,
        )
        return bool(self._database.read(select(deliveries.c.id).where(is_pending).limit(1)))

    def find_runs_of_job(self, job: str, run_ids: Iterable[str]) -> set[str]:
        """Return those of the runs that belong to a sync job."""
        ids, of_job = sorted(run_ids), set[str]()
        for start in range(0, len(ids), _MAX_IDS):
            statement = select(runs.c.sync_job_run_id).where(
                runs.c.sync_job_id == job, runs.c.sync_job_run_id.in_(ids[start : start + _MAX_IDS])
            )
            of_job |= {row.sync_job_run_id for row in self._database.read(statement)}
        return of_job

    def find_first_received(self, run_id: str) -> datetime | None:
        """Return when the first delivery of a run was received; None without any."""
        statement = select(func.min(deliveries.c.received_at)).where(deliveries.c.sync_job_run_id == run_id)
        received_at: datetime | None = self._database.read(statement)[0][0]
        return received_at

    def delete_old(self, *, now: datetime) -> int:
        """Delete the checks of 90 days ago and earlier."""
        return self._database.execute(delete(delete_checks).where(_CHECK.created_at < now - KEPT_FOR))

    def _change(self, check: DeleteCheck, **values: Any) -> bool:
        return self._database.execute(_update_leased(check).values(**values)) > 0

    def _read(self, *conditions: ColumnElement[bool], limit: int, order: Any = None) -> list[DeleteCheck]:
        newest_first = (_CHECK.created_at.desc(), _CHECK.resource, _CHECK.sink, _CHECK.id)
        statement = select(*_COLUMNS).where(*conditions).order_by(*(order or newest_first)).limit(limit)
        return [DeleteCheck(*row) for row in self._database.read(statement)]


def _list_outdated(check: DeleteCheck) -> list[ColumnElement[bool]]:
    """Return the conditions of the earlier checks that a new one of the same job and account replaces.

    One that is held back replaces no check that a worker or a person may still carry out: rows that an
    earlier run did not see are marked only if no later batch has shown them.
    """
    same = ("integrated_account_id", "sync_job_id", "resource", "route_table", "sink")
    conditions = [_CHECK[name] == getattr(check, name) for name in same]
    conditions.append(_CHECK.began_at < check.began_at)
    if check.state == DeleteCheckState.DUE:
        return [*conditions, or_(_IS_DUE, _IS_HELD)]
    if check.reason == HoldReason.INCREMENTAL:
        return [*conditions, _IS_HELD, _CHECK.reason == HoldReason.INCREMENTAL]
    return [*conditions, _IS_HELD, _CHECK.reason != HoldReason.OVER_SHARE]


def _is_due(now: datetime) -> ColumnElement[bool]:
    return and_(_IS_DUE, _CHECK.due_at <= now)


def _update_leased(check: DeleteCheck) -> Update:
    """Return the update of a check that this process has leased."""
    return update(delete_checks).where(
        _CHECK.id == check.id, _CHECK.state == DeleteCheckState.DUE, _CHECK.leased_by == check.leased_by
    )


def _supersede(reason: HoldReason, now: datetime) -> Update:
    ended = {"state": DeleteCheckState.SUPERSEDED, "reason": reason, "leased_by": ""}
    return update(delete_checks).values(**ended, message="", finished_at=now)
