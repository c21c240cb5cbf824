"""What the store holds of an integrated account beyond ids and numbers: counted, and removed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Table, and_, case, exists, func, or_, select, tuple_, update

from app.database.engine import Database
from app.store.models import DeliveryState
from app.store.reasons import Reason
from app.store.schema import dead_records, deliveries, record_errors, runs
from app.truto.runs import strip_run_details

_PAGE_SIZE = 500
_HAS_BODY = func.length(deliveries.c.body) > 0
_HAS_DEAD = dead_records.c.raw != ""
_HAS_ERROR = or_(record_errors.c.raw != "", record_errors.c.message != "")
_IS_PENDING = deliveries.c.state == DeliveryState.PENDING
_HAS_DATA = or_(
    _IS_PENDING,
    _HAS_BODY,
    exists().where(dead_records.c.delivery_id == deliveries.c.id, _HAS_DEAD),
    exists().where(record_errors.c.delivery_id == deliveries.c.id, _HAS_ERROR),
)


@dataclass(frozen=True, slots=True)
class AccountDataCounts:
    """What there is of an account. bodies: of deliveries; pending: deliveries that would land yet."""

    bodies: int = 0
    pending: int = 0
    dead_records: int = 0
    record_errors: int = 0
    runs: int = 0

    def __add__(self, other: Self) -> "AccountDataCounts":
        names = [field.name for field in fields(self)]
        return AccountDataCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})


class AccountData:
    """One account's deliveries that came until a moment, and its runs. Every method raises StoreUnavailable.

    A delivery that names no account is the account's if its run is.
    """

    def __init__(self, database: Database, account: str, *, until: datetime) -> None:
        self._database = database
        self._is_run_of_account = runs.c.integrated_account_id == account
        its_runs = select(runs.c.sync_job_run_id).where(self._is_run_of_account)
        self._is_without_account = and_(
            deliveries.c.integrated_account_id == "",
            deliveries.c.sync_job_run_id != "",
            deliveries.c.sync_job_run_id.in_(its_runs),
        )
        is_its = or_(deliveries.c.integrated_account_id == account, self._is_without_account)
        self._is_of_account = and_(is_its, deliveries.c.received_at <= until)

    def count(self) -> AccountDataCounts:
        """Count what `erase` would remove."""
        bodies = func.coalesce(func.sum(case((_HAS_BODY, 1), else_=0)), 0)
        pending = func.coalesce(func.sum(case((_IS_PENDING, 1), else_=0)), 0)
        [(body_count, pending_count)] = self._database.read(
            select(bodies, pending).where(self._is_of_account)
        )
        return AccountDataCounts(
            bodies=int(body_count),
            pending=int(pending_count),
            dead_records=self._count_rows(dead_records, _HAS_DEAD),
            record_errors=self._count_rows(record_errors, _HAS_ERROR),
            runs=sum(self._strip_runs(dry_run=True)),
        )

    def _count_rows(self, table: Table, has_data: ColumnElement[bool]) -> int:
        statement = (
            select(func.count())
            .select_from(table.join(deliveries, deliveries.c.id == table.c.delivery_id))
            .where(has_data, self._is_of_account)
        )
        return int(self._database.read(statement)[0][0])

    def count_without_account(self) -> int:
        """Count deliveries with records that name no account, of its runs: sinks have them as nobody's."""
        statement = select(func.count()).where(
            self._is_without_account, self._is_of_account, deliveries.c.records > 0
        )
        return int(self._database.read(statement)[0][0])

    def erase(self, *, now: datetime) -> Iterator[AccountDataCounts]:
        """Empty bodies and all that came with them; yields what each transaction had.

        What is pending is discarded: no worker takes it up any more, and one that has it in hand cannot
        settle it. It may write it to a sink until it is not `in_hand` any more.
        """
        place = (deliveries.c.received_at, deliveries.c.id)
        page = select(*place).where(self._is_of_account, _HAS_DATA).order_by(*place).limit(_PAGE_SIZE)
        rows = self._database.read(page)
        while rows:
            with self._database.transaction() as connection:
                counts = _erase(connection, [row.id for row in rows], now)
            yield counts
            rows = self._database.read(page.where(tuple_(*place) > tuple(rows[-1])))
        yield from (AccountDataCounts(runs=number) for number in self._strip_runs(dry_run=False))

    def find_in_progress(self, *, now: datetime, among: Sequence[UUID] = ()) -> list[UUID]:
        """Return erased deliveries that a worker has in hand, and may write yet. among: of these only."""
        is_leased = (deliveries.c.leased_by != "", deliveries.c.leased_until > now)
        statement = select(deliveries.c.id).where(
            self._is_of_account,
            deliveries.c.state == DeliveryState.DISCARDED,
            deliveries.c.reason == Reason.ERASED,
            *is_leased,
        )
        if among:
            statement = statement.where(deliveries.c.id.in_(among))
        return [row.id for row in self._database.read(statement)]

    def _strip_runs(self, *, dry_run: bool) -> Iterator[int]:
        """Leave of runs what their totals need; yields how many of a transaction's had more than that."""
        page = select(runs.c.sync_job_run_id, runs.c.run).where(
            self._is_run_of_account, runs.c.run.is_not(None)
        )
        page = page.order_by(runs.c.sync_job_run_id).limit(_PAGE_SIZE)
        # Nobody may say more of a run while that is being cut down.
        page = page if dry_run else page.with_for_update()
        after = ""
        while True:
            with self._database.transaction() as connection:
                rows = connection.execute(page.where(runs.c.sync_job_run_id > after)).all()
                bare = {row.sync_job_run_id: strip_run_details(row.run) for row in rows}
                changed = {row.sync_job_run_id for row in rows if bare[row.sync_job_run_id] != row.run}
                for run_id in changed if not dry_run else ():
                    change = update(runs).where(runs.c.sync_job_run_id == run_id)
                    connection.execute(change.values(run=bare[run_id]))
            yield len(changed)
            if len(rows) < _PAGE_SIZE:
                return
            after = rows[-1].sync_job_run_id


def _erase(connection: Connection, ids: Sequence[UUID], now: datetime) -> AccountDataCounts:
    these = deliveries.c.id.in_(ids)
    # In one order, so that two with the same deliveries cannot deadlock.
    connection.execute(select(deliveries.c.id).where(these).order_by(deliveries.c.id).with_for_update())

    def change(table: Any, *conditions: ColumnElement[bool], **values: Any) -> int:
        return int(connection.execute(update(table).where(*conditions).values(**values)).rowcount)

    # Its lease stays: it tells who may still be at it.
    ended = {
        "state": DeliveryState.DISCARDED,
        "reason": Reason.ERASED,
        "discard_reason": Reason.ERASED,
        "settled_at": now,
    }
    pruned_at = func.coalesce(deliveries.c.pruned_at, now)
    return AccountDataCounts(
        pending=change(deliveries, these, _IS_PENDING, **ended),
        bodies=change(deliveries, these, _HAS_BODY, body=b"", pruned_at=pruned_at),
        dead_records=change(dead_records, dead_records.c.delivery_id.in_(ids), _HAS_DEAD, raw=""),
        record_errors=change(
            record_errors, record_errors.c.delivery_id.in_(ids), _HAS_ERROR, raw="", message=""
        ),
    )
