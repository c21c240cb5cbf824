"""What the store holds of an integrated account beyond ids and numbers: counted, and removed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, case, exists, func, or_, select, tuple_, update

from app.database.engine import Store, one_statement, store_faults
from app.store.schema import dead_records, deliveries, record_errors, runs
from app.truto.runs import without_details

_PAGE = 500
REASON = "erased"
_HAS_BODY = func.length(deliveries.c.body) > 0
_HAS_DEAD = dead_records.c.raw != ""
_HAS_ERROR = or_(record_errors.c.raw != "", record_errors.c.message != "")
_IS_PENDING = deliveries.c.state == "pending"
_HAS_ANY = or_(
    _IS_PENDING,
    _HAS_BODY,
    exists().where(dead_records.c.delivery_id == deliveries.c.id, _HAS_DEAD),
    exists().where(record_errors.c.delivery_id == deliveries.c.id, _HAS_ERROR),
)


@dataclass(frozen=True, slots=True)
class Traces:
    """What there is of an account. bodies: of deliveries; pending: deliveries that would land yet."""

    bodies: int = 0
    pending: int = 0
    dead_records: int = 0
    record_errors: int = 0
    runs: int = 0

    def __add__(self, other: Self) -> "Traces":
        names = [field.name for field in fields(self)]
        return Traces(**{name: getattr(self, name) + getattr(other, name) for name in names})


class AccountInStore:
    """One account's deliveries that came until a moment, and its runs. Every method raises StoreUnavailable.

    A delivery that names no account is the account's if its run is.
    """

    def __init__(self, store: Store, account: str, *, until: datetime) -> None:
        self._store = store
        self._is_its_run = runs.c.integrated_account_id == account
        its_runs = select(runs.c.sync_job_run_id).where(self._is_its_run)
        self._is_nameless = and_(
            deliveries.c.integrated_account_id == "",
            deliveries.c.sync_job_run_id != "",
            deliveries.c.sync_job_run_id.in_(its_runs),
        )
        is_its = or_(deliveries.c.integrated_account_id == account, self._is_nameless)
        self._is_its = and_(is_its, deliveries.c.received_at <= until)

    def count(self) -> Traces:
        """Count what `erase` would remove."""
        bodies = func.coalesce(func.sum(case((_HAS_BODY, 1), else_=0)), 0)
        pending = func.coalesce(func.sum(case((_IS_PENDING, 1), else_=0)), 0)
        with store_faults(), one_statement(self._store) as connection:
            numbers = connection.execute(select(bodies, pending).where(self._is_its)).one()
            facts = [
                connection.execute(
                    select(func.count())
                    .select_from(table.join(deliveries, deliveries.c.id == table.c.delivery_id))
                    .where(has_any, self._is_its)
                ).scalar_one()
                for table, has_any in ((dead_records, _HAS_DEAD), (record_errors, _HAS_ERROR))
            ]
        its_runs = sum(self._runs(is_dry=True))
        return Traces(int(numbers[0]), int(numbers[1]), facts[0], facts[1], its_runs)

    def count_nameless(self) -> int:
        """Count deliveries with records that name no account, of its runs: sinks have them as nobody's."""
        statement = select(func.count()).where(self._is_nameless, self._is_its, deliveries.c.records > 0)
        with store_faults(), one_statement(self._store) as connection:
            return int(connection.execute(statement).scalar_one())

    def erase(self, *, now: datetime) -> Iterator[Traces]:
        """Empty bodies and all that came with them; yields what each transaction had.

        What is pending is discarded: no worker takes it up any more, and one that has it in hand cannot
        settle it. It may write it to a sink until it is not `in_hand` any more.
        """
        place = (deliveries.c.received_at, deliveries.c.id)
        page = select(*place).where(self._is_its, _HAS_ANY).order_by(*place).limit(_PAGE)
        rows = self._read(page)
        while rows:
            with store_faults(), self._store.begin() as connection:
                traces = _erase(connection, [row.id for row in rows], now)
            yield traces
            rows = self._read(page.where(tuple_(*place) > tuple(rows[-1])))
        yield from (Traces(runs=number) for number in self._runs(is_dry=False))

    def in_hand(self, *, now: datetime, among: Sequence[UUID] = ()) -> list[UUID]:
        """Return erased deliveries that a worker has in hand, and may write yet. among: of these only."""
        is_held = (deliveries.c.held_by != "", deliveries.c.leased_until > now)
        statement = select(deliveries.c.id).where(
            self._is_its, deliveries.c.state == "discarded", deliveries.c.reason == REASON, *is_held
        )
        if among:
            statement = statement.where(deliveries.c.id.in_(among))
        return [row.id for row in self._read(statement)]

    def _runs(self, *, is_dry: bool) -> Iterator[int]:
        """Leave of runs what their totals need; yields how many of a transaction's had more than that."""
        page = select(runs.c.sync_job_run_id, runs.c.run).where(self._is_its_run, runs.c.run.is_not(None))
        page = page.order_by(runs.c.sync_job_run_id).limit(_PAGE)
        # Nobody may say more of a run while that is being cut down.
        page = page if is_dry else page.with_for_update()
        after = ""
        while True:
            with store_faults(), self._store.begin() as connection:
                rows = connection.execute(page.where(runs.c.sync_job_run_id > after)).all()
                bare = {row.sync_job_run_id: without_details(row.run) for row in rows}
                changed = {row.sync_job_run_id for row in rows if bare[row.sync_job_run_id] != row.run}
                for run_id in changed if not is_dry else ():
                    change = update(runs).where(runs.c.sync_job_run_id == run_id)
                    connection.execute(change.values(run=bare[run_id]))
            yield len(changed)
            if len(rows) < _PAGE:
                return
            after = rows[-1].sync_job_run_id

    def _read(self, statement: Any) -> Sequence[Any]:
        with store_faults(), one_statement(self._store) as connection:
            return connection.execute(statement).all()


def _erase(connection: Connection, ids: Sequence[UUID], now: datetime) -> Traces:
    these = deliveries.c.id.in_(ids)
    # In one order, so that two with the same deliveries cannot deadlock.
    connection.execute(select(deliveries.c.id).where(these).order_by(deliveries.c.id).with_for_update())

    def change(table: Any, *conditions: ColumnElement[bool], **values: Any) -> int:
        return int(connection.execute(update(table).where(*conditions).values(**values)).rowcount)

    # Its lease stays: it tells who may still be at it.
    ended = {"state": "discarded", "reason": REASON, "discarded": REASON, "settled_at": now}
    pruned_at = func.coalesce(deliveries.c.pruned_at, now)
    return Traces(
        pending=change(deliveries, these, _IS_PENDING, **ended),
        bodies=change(deliveries, these, _HAS_BODY, body=b"", pruned_at=pruned_at),
        dead_records=change(dead_records, dead_records.c.delivery_id.in_(ids), _HAS_DEAD, raw=""),
        record_errors=change(
            record_errors, record_errors.c.delivery_id.in_(ids), _HAS_ERROR, raw="", message=""
        ),
    )
