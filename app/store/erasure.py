"""Count and erase the data of an integrated account in the store."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)

from app.database.engine import Database
from app.store.delivery_attempts import delete_attempts
from app.store.erased_names import make_pseudonym, replace_names
from app.store.held import LOAD_SCOPE
from app.store.models import AttributionSource, DeliveryState
from app.store.reasons import Reason
from app.store.run_summaries import OUTDATE_SUMMARY
from app.store.schema import (
    dead_records,
    delete_checks,
    deliveries,
    loads,
    record_errors,
    runs,
    sink_outcomes,
    syncs,
)
from app.store.stored_body import decode_body
from app.truto.runs import strip_run_details

_PAGE_SIZE = 500
# With bodies.
_MIXED_PAGE_SIZE = 10
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_HAS_BODY = func.length(deliveries.c.body) > 0
# Erasure sets `body_bytes` to 0, also of a pruned delivery: its body must not come back from an archive.
IS_ERASED = and_(deliveries.c.pruned_at.is_not(None), deliveries.c.body_bytes == 0)
_IS_RESTORABLE = and_(deliveries.c.pruned_at.is_not(None), deliveries.c.body_bytes > 0)
_HAS_DEAD = or_(dead_records.c.raw != "", dead_records.c.message != "")
_HAS_ERROR = or_(record_errors.c.raw != "", record_errors.c.message != "")
_HAS_MESSAGE = sink_outcomes.c.message != ""
_IS_PENDING = deliveries.c.state == DeliveryState.PENDING
_HAS_DATA = or_(
    _IS_PENDING,
    _HAS_BODY,
    _IS_RESTORABLE,
    exists().where(dead_records.c.delivery_id == deliveries.c.id, _HAS_DEAD),
    exists().where(record_errors.c.delivery_id == deliveries.c.id, _HAS_ERROR),
    exists().where(sink_outcomes.c.delivery_id == deliveries.c.id, _HAS_MESSAGE),
)


@dataclass(frozen=True, slots=True)
class AccountDataCounts:
    """Numbers of rows with data of an account.

    pruned: deliveries without bodies, which an archive may hold. pending: deliveries that a worker would
    still write. syncs: rows of the accounts page. names: rows with the account's id.
    """

    bodies: int = 0
    pruned: int = 0
    pending: int = 0
    dead_records: int = 0
    record_errors: int = 0
    runs: int = 0
    syncs: int = 0
    names: int = 0

    def __add__(self, other: Self) -> "AccountDataCounts":
        names = [field.name for field in fields(self)]
        return AccountDataCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})


class AccountData:
    """The runs of one account, and its deliveries received until a time. Methods raise StoreUnavailable.

    A delivery without an account belongs to the account of its run. A delivery with records of several
    accounts belongs to each one that its body mentions, and is erased as a whole; without its body, it
    belongs to every account.
    """

    def __init__(self, database: Database, account: str, *, until: datetime) -> None:
        self._database = database
        self._account = account
        self._pseudonym = make_pseudonym(account)
        # Also what an earlier pass has erased: later deliveries of its runs may name no account.
        names = (account, self._pseudonym)
        self._is_run_of_account = runs.c.integrated_account_id.in_(names)
        self._is_run_with_name = runs.c.integrated_account_id == account
        self._is_sync_of_account = syncs.c.integrated_account_id == account
        run_ids = select(runs.c.sync_job_run_id).where(self._is_run_of_account)
        self._is_without_account = and_(
            deliveries.c.integrated_account_id == "",
            deliveries.c.sync_job_run_id != "",
            deliveries.c.sync_job_run_id.in_(run_ids),
        )
        is_of_account = or_(deliveries.c.integrated_account_id.in_(names), self._is_without_account)
        self._is_of_account = and_(is_of_account, deliveries.c.received_at <= until)
        self._has_name = deliveries.c.integrated_account_id == account
        self._is_mixed = (
            deliveries.c.account_source == AttributionSource.RECORD,
            deliveries.c.integrated_account_id == "",
            deliveries.c.received_at <= until,
        )

    def count(self) -> AccountDataCounts:
        """Count the rows that `erase` would change."""
        numbers = [
            func.coalesce(func.sum(case((condition, 1), else_=0)), 0)
            for condition in (_HAS_BODY, _IS_RESTORABLE, _IS_PENDING)
        ]
        [(bodies, pruned, pending)] = self._database.read(select(*numbers).where(self._is_of_account))
        is_barred = (*self._is_mixed, _IS_RESTORABLE)
        [(mixed_pruned,)] = self._database.read(
            select(func.count()).select_from(deliveries).where(*is_barred)
        )
        return AccountDataCounts(
            bodies=int(bodies) + sum(1 for _ in self._find_mixed_deliveries()),
            pruned=int(pruned) + mixed_pruned,
            pending=int(pending),
            dead_records=self._count_rows(dead_records, _HAS_DEAD),
            record_errors=self._count_rows(record_errors, _HAS_ERROR),
            runs=sum(self._strip_runs(dry_run=True)),
            syncs=self._count_where(self._is_sync_of_account),
            names=self._count_names(),
        )

    def _count_where(self, *conditions: ColumnElement[bool]) -> int:
        return int(self._database.read(select(func.count()).where(*conditions))[0][0])

    def _count_names(self) -> int:
        return (
            self._count_where(self._has_name, self._is_of_account)
            + self._count_where(self._is_run_with_name)
            + sum(replace_names(self._database, self._account, dry_run=True))
        )

    def _count_rows(self, table: Table, has_data: ColumnElement[bool]) -> int:
        statement = (
            select(func.count())
            .select_from(table.join(deliveries, deliveries.c.id == table.c.delivery_id))
            .where(has_data, self._is_of_account)
        )
        return int(self._database.read(statement)[0][0])

    def count_without_account(self) -> int:
        """Count deliveries of the account's runs that name no account; sinks store these apart."""
        statement = select(func.count()).where(
            self._is_without_account, self._is_of_account, deliveries.c.records > 0
        )
        return int(self._database.read(statement)[0][0])

    def erase(self, *, now: datetime) -> Iterator[AccountDataCounts]:
        """Empty bodies, dead records and record errors; yield the counts of each transaction.

        Pending deliveries are discarded: no worker leases them any more. A worker that already leased one
        cannot settle it, but may write it to sinks until `find_in_progress` no longer returns it.
        """
        yield from self._bar_mixed_deliveries()
        for delivery_id in self._find_mixed_deliveries():
            # From here on it is one of the account's deliveries: its whole body will be erased.
            change = update(deliveries).where(deliveries.c.id == delivery_id)
            self._database.execute(change.values(integrated_account_id=self._pseudonym))
        order = (deliveries.c.received_at, deliveries.c.id)
        has_data = or_(_HAS_DATA, self._has_name)
        page = select(*order).where(self._is_of_account, has_data).order_by(*order).limit(_PAGE_SIZE)
        rows = self._database.read(page)
        while rows:
            with self._database.transaction() as connection:
                ids = [row.id for row in rows]
                names = self._rename_deliveries(connection, ids)
                counts = _erase(connection, ids, now) + AccountDataCounts(names=names)
            yield counts
            rows = self._database.read(page.where(tuple_(*order) > tuple(rows[-1])))
        yield from (AccountDataCounts(runs=number) for number in self._strip_runs(dry_run=False))
        yield from (AccountDataCounts(names=number) for number in self._rename_runs(now))
        yield AccountDataCounts(syncs=self._database.execute(delete(syncs).where(self._is_sync_of_account)))
        checks_of_account = delete_checks.c.integrated_account_id == self._account
        yield AccountDataCounts(names=self._database.execute(delete(delete_checks).where(checks_of_account)))
        for number in replace_names(self._database, self._account, dry_run=False):
            yield AccountDataCounts(names=number)

    def find_in_progress(self, *, now: datetime, among: Sequence[UUID] = ()) -> list[UUID]:
        """Return erased deliveries that a worker still processes. among: only of these, unless empty."""
        is_leased = and_(deliveries.c.leased_by != "", deliveries.c.leased_until > now)
        open_loads = self._database.read(select(loads.c.id).where(loads.c.leased_until > now))
        in_load = exists().where(
            sink_outcomes.c.delivery_id == deliveries.c.id,
            sink_outcomes.c.held_scope.in_([f"{LOAD_SCOPE} {row.id}" for row in open_loads]),
        )
        statement = select(deliveries.c.id).where(
            self._is_of_account,
            deliveries.c.state == DeliveryState.DISCARDED,
            deliveries.c.reason == Reason.ERASED,
            or_(is_leased, in_load),
        )
        if among:
            statement = statement.where(deliveries.c.id.in_(among))
        return [row.id for row in self._database.read(statement)]

    def _bar_mixed_deliveries(self) -> Iterator[AccountDataCounts]:
        """Bar the pruned deliveries with records of several accounts from a restore.

        Without their bodies, it is unknown whether they mention this account.
        """
        page = select(deliveries.c.id).where(*self._is_mixed, _IS_RESTORABLE)
        page = page.order_by(deliveries.c.id).limit(_PAGE_SIZE)
        while ids := [row.id for row in self._database.read(page)]:
            change = update(deliveries).where(deliveries.c.id.in_(ids), _IS_RESTORABLE)
            yield AccountDataCounts(pruned=self._database.execute(change.values(body_bytes=0)))

    def _find_mixed_deliveries(self) -> Iterator[UUID]:
        """Yield the deliveries with records of several accounts whose body mentions this one."""
        order = (deliveries.c.received_at, deliveries.c.id)
        page = (
            select(*order, deliveries.c.body)
            .where(*self._is_mixed, _HAS_BODY)
            .order_by(*order)
            .limit(_MIXED_PAGE_SIZE)
        )
        rows = self._database.read(page)
        while rows:
            for row in rows:
                if self._may_mention(row):
                    yield row.id
            rows = self._database.read(page.where(tuple_(*order) > (rows[-1].received_at, rows[-1].id)))

    def _may_mention(self, row: Any) -> bool:
        """Whether a body contains the account's id. A damaged body may, and no replay can use it."""
        try:
            return _mentions(decode_body(self._database.keyring, row.id, row.body), self._account)
        except ValueError:
            return True

    def _strip_runs(self, *, dry_run: bool) -> Iterator[int]:
        """Reduce runs to what their totals need; yield the number of changed runs of each transaction."""
        page = select(runs.c.sync_job_run_id, runs.c.run).where(
            self._is_run_of_account, runs.c.run.is_not(None)
        )
        page = page.order_by(runs.c.sync_job_run_id).limit(_PAGE_SIZE)
        # Locked, so that a concurrent event cannot restore the details.
        page = page if dry_run else page.with_for_update()
        after = ""
        while True:
            with self._database.transaction() as connection:
                rows = connection.execute(page.where(runs.c.sync_job_run_id > after)).all()
                stripped = {row.sync_job_run_id: strip_run_details(row.run) for row in rows}
                changed = {row.sync_job_run_id for row in rows if stripped[row.sync_job_run_id] != row.run}
                for run_id in changed if not dry_run else ():
                    change = update(runs).where(runs.c.sync_job_run_id == run_id)
                    connection.execute(change.values(run=stripped[run_id]))
            yield len(changed)
            if len(rows) < _PAGE_SIZE:
                return
            after = rows[-1].sync_job_run_id

    def _rename_runs(self, now: datetime) -> Iterator[int]:
        """Take the account's runs out of its syncs, and replace its id; later runs make a new sync."""
        page = select(runs.c.sync_job_run_id).where(self._is_run_with_name)
        page = page.order_by(runs.c.sync_job_run_id).limit(_PAGE_SIZE).with_for_update()
        run_ids: Sequence[str] = [""]
        while run_ids:
            with self._database.transaction() as connection:
                run_ids = connection.execute(page).scalars().all()
                values = {"erased_at": now, "integrated_account_id": self._pseudonym, **OUTDATE_SUMMARY}
                connection.execute(update(runs).where(runs.c.sync_job_run_id.in_(run_ids)).values(values))
            yield len(run_ids)

    def _rename_deliveries(self, connection: Connection, ids: Sequence[UUID]) -> int:
        """Replace the account's id in these deliveries and in the reasons of operators."""
        _lock_deliveries(connection, ids)
        for table, id_column in ((deliveries, deliveries.c.id), (dead_records, dead_records.c.delivery_id)):
            reason = func.replace(table.c.discard_reason, self._account, self._pseudonym)
            change = update(table).where(id_column.in_(ids), table.c.discard_reason != reason)
            connection.execute(change.values(discard_reason=reason))
        change = update(deliveries).where(deliveries.c.id.in_(ids), self._has_name)
        return connection.execute(change.values(integrated_account_id=self._pseudonym)).rowcount


def _mentions(body: bytes, account: str) -> bool:
    name = account.encode("utf-8", "surrogatepass")
    return name in body or name in _resolve_escapes(body)


def _resolve_escapes(body: bytes) -> bytes:
    """Return a body with the characters that its JSON escapes name."""
    if b"\\" not in body:
        return body
    text = body.decode("utf-8", "replace").replace("\\/", "/")
    text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    # Two escapes name one character outside the basic plane.
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.encode()


def _lock_deliveries(connection: Connection, ids: Sequence[UUID]) -> None:
    # Locked in one order, so that two processes cannot deadlock.
    locked = select(deliveries.c.id).where(deliveries.c.id.in_(ids)).order_by(deliveries.c.id)
    connection.execute(locked.with_for_update())


def _erase(connection: Connection, ids: Sequence[UUID], now: datetime) -> AccountDataCounts:
    is_selected = deliveries.c.id.in_(ids)
    _lock_deliveries(connection, ids)

    def change(table: Any, *conditions: ColumnElement[bool], **values: Any) -> int:
        return int(connection.execute(update(table).where(*conditions).values(**values)).rowcount)

    delete_attempts(connection, ids)
    # The lease stays: it shows that a worker may still write the delivery.
    discarded = {
        "state": DeliveryState.DISCARDED,
        "reason": Reason.ERASED,
        "discard_reason": Reason.ERASED,
        "settled_at": now,
    }
    # No release finds them any more. Those in a load show that a worker may still write them.
    in_load = sink_outcomes.c.held_scope.startswith(f"{LOAD_SCOPE} ")
    is_held = (sink_outcomes.c.delivery_id.in_(ids), sink_outcomes.c.held_scope.is_not(None), ~in_load)
    change(sink_outcomes, *is_held, held_scope=None, held_received_at=None)
    change(sink_outcomes, sink_outcomes.c.delivery_id.in_(ids), _HAS_MESSAGE, message="")
    return AccountDataCounts(
        pending=change(deliveries, is_selected, _IS_PENDING, **discarded),
        # Before the bodies: they become pruned, too.
        pruned=change(deliveries, is_selected, _IS_RESTORABLE, body_bytes=0),
        bodies=change(deliveries, is_selected, _HAS_BODY, body=b"", body_bytes=0, pruned_at=now),
        dead_records=change(dead_records, dead_records.c.delivery_id.in_(ids), _HAS_DEAD, raw="", message=""),
        record_errors=change(
            record_errors, record_errors.c.delivery_id.in_(ids), _HAS_ERROR, raw="", message=""
        ),
    )
