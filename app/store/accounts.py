"""Integrated accounts and the states of their syncs, the worst first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Subquery, case, func, literal, select, tuple_

from app.database.engine import Database
from app.store.run_summaries import SUMMARY_COLUMNS, RunSummary, to_run_summary
from app.store.schema import UtcDateTime, runs, syncs

_EPOCH = literal(datetime.fromtimestamp(0, UTC), UtcDateTime())
_SUMS = ("arrived", "written", "dead", "missing", "record_errors")


class SyncState(StrEnum):
    """The states of a sync, the worst first. An account has the state of its worst sync."""

    INCOMPLETE = "incomplete"
    LATE = "late"
    FAILED = "failed"
    STOPPED = "stopped"
    UNKNOWN = "unknown"
    OPEN = "open"
    COMPLETE = "complete"


_STATES = tuple(SyncState)
# Truto's statuses of last runs that ended early: records that it never fetched are in no count.
_RANK_BY_STATUS = {
    "failed": _STATES.index(SyncState.FAILED),
    "stopped": _STATES.index(SyncState.STOPPED),
}
# The verdicts of last runs that are neither incomplete nor late.
_RANK_BY_VERDICT = {
    "open": _STATES.index(SyncState.OPEN),
    "settling": _STATES.index(SyncState.OPEN),
    "complete": _STATES.index(SyncState.COMPLETE),
}


@dataclass(frozen=True, slots=True)
class Sync:
    """The sync of an account by one job; the columns are described in `schema`. summary: of its last run."""

    integrated_account_id: str
    sync_job_id: str
    environment_id: str
    webhook_id: str
    newest_record_at: datetime | None
    last_run_id: str
    last_run_at: datetime | None
    status: str
    recent_runs: int
    incomplete_runs: int
    usual_interval_s: int | None
    expected_at: datetime | None
    summarized_at: datetime | None
    state: SyncState
    summary: RunSummary


@dataclass(frozen=True, slots=True)
class Account:
    """An integrated account, with sums over the last runs of its syncs. fetched: None if one is unknown.

    worst_sync: the one that gives the account its state.
    """

    integrated_account_id: str
    state: SyncState
    syncs: int
    last_run_at: datetime | None
    newest_record_at: datetime | None
    fetched: int | None
    arrived: int
    written: int
    dead: int
    missing: int
    record_errors: int
    worst_sync: Sync

    @property
    def position(self) -> tuple[str, str, str]:
        """The position of the account in `list_accounts`."""
        last_run_at = (self.last_run_at or datetime.fromtimestamp(0, UTC)).isoformat()
        return self.state, last_run_at, self.integrated_account_id


@dataclass(frozen=True, slots=True)
class AccountFilter:
    """Conditions that an account must meet. environment_id: of one of its syncs."""

    id_part: str = ""
    environment_id: str = ""


@dataclass(frozen=True, slots=True)
class AccountRun:
    """A run of an account. summarized_at: None if the summary is being written again."""

    sync_job_run_id: str
    sync_job_id: str
    first_seen_at: datetime
    status: str
    summarized_at: datetime | None
    summary: RunSummary


class Accounts:
    """The integrated accounts. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_accounts(
        self,
        account_filter: AccountFilter,
        *,
        state: SyncState | None = None,
        after: tuple[SyncState, datetime, str] | None = None,
        now: datetime,
        limit: int,
    ) -> list[Account]:
        """Return accounts, the worst state first, in a state the longest without a run first.

        after: the position of the last account of the previous page.
        """
        accounts = _group_accounts(account_filter, now)
        order = (accounts.c.rank, accounts.c.sort_at, accounts.c.integrated_account_id)
        statement = select(accounts).order_by(*order).limit(limit)
        if state:
            statement = statement.where(accounts.c.rank == _STATES.index(state))
        if after:
            position = (_STATES.index(after[0]), literal(after[1], UtcDateTime()), after[2])
            statement = statement.where(tuple_(*order) > tuple_(*position))
        rows = self._database.read(statement)
        worst = self._find_worst_syncs([row.integrated_account_id for row in rows], now)
        return [
            Account(
                integrated_account_id=row.integrated_account_id,
                state=_STATES[row.rank],
                syncs=row.syncs,
                last_run_at=row.last_run_at,
                newest_record_at=row.newest_record_at,
                fetched=None if row.fetched is None else int(row.fetched),
                **{name: int(getattr(row, name)) for name in _SUMS},
                worst_sync=worst[row.integrated_account_id],
            )
            for row in rows
            # An erasure may remove the account in between.
            if row.integrated_account_id in worst
        ]

    def count_by_state(self, account_filter: AccountFilter, *, now: datetime) -> Mapping[SyncState, int]:
        """Count the accounts in every state."""
        accounts = _group_accounts(account_filter, now)
        statement = select(accounts.c.rank, func.count()).group_by(accounts.c.rank)
        counts = {_STATES[rank]: int(count) for rank, count in self._database.read(statement)}
        return {state: counts.get(state, 0) for state in SyncState}

    def list_environments(self, *, limit: int) -> list[str]:
        """Return the environments of accounts."""
        environment = syncs.c.environment_id
        statement = select(environment).where(environment != "").distinct().order_by(environment).limit(limit)
        return [row.environment_id for row in self._database.read(statement)]

    def list_syncs(self, account: str, *, now: datetime, limit: int) -> list[Sync]:
        """Return the syncs of an account, the worst first."""
        rank = _build_rank(now)
        statement = (
            select(syncs, rank.label("rank"))
            .where(syncs.c.integrated_account_id == account)
            .order_by(rank, syncs.c.last_run_at, syncs.c.sync_job_id)
            .limit(limit)
        )
        return [_to_sync(row) for row in self._database.read(statement)]

    def list_runs(
        self, account: str, *, after: tuple[datetime, str] | None = None, limit: int
    ) -> list[AccountRun]:
        """Return the runs of an account, newest first. after: (first_seen_at, id) of the previous run."""
        order = (runs.c.first_seen_at, runs.c.sync_job_run_id)
        names = [name for name in AccountRun.__dataclass_fields__ if name != "summary"]
        statement = (
            select(*(runs.c[name] for name in (*names, *SUMMARY_COLUMNS)))
            .where(runs.c.integrated_account_id == account, runs.c.erased_at.is_(None))
            .order_by(*(column.desc() for column in order))
            .limit(limit)
        )
        if after:
            position = tuple_(literal(after[0], UtcDateTime()), after[1])
            statement = statement.where(tuple_(*order) < position)
        return [
            AccountRun(**{name: getattr(row, name) for name in names}, summary=to_run_summary(row))
            for row in self._database.read(statement)
        ]

    def _find_worst_syncs(self, accounts: Sequence[str], now: datetime) -> dict[str, Sync]:
        rank = _build_rank(now)
        place = func.row_number().over(
            partition_by=syncs.c.integrated_account_id,
            order_by=(rank, syncs.c.last_run_at, syncs.c.sync_job_id),
        )
        ranked = (
            select(syncs, rank.label("rank"), place.label("place"))
            .where(syncs.c.integrated_account_id.in_(accounts))
            .subquery()
        )
        rows = self._database.read(select(ranked).where(ranked.c.place == 1)) if accounts else ()
        return {row.integrated_account_id: _to_sync(row) for row in rows}


def _group_accounts(account_filter: AccountFilter, now: datetime) -> Subquery:
    last_run_at = func.max(syncs.c.last_run_at)
    # Unknown if it is unknown for one of the syncs.
    fetched = case((func.count(syncs.c.fetched) == func.count(), func.sum(syncs.c.fetched)))
    statement = (
        select(
            syncs.c.integrated_account_id,
            func.min(_build_rank(now)).label("rank"),
            func.count().label("syncs"),
            last_run_at.label("last_run_at"),
            func.coalesce(last_run_at, _EPOCH).label("sort_at"),
            func.max(syncs.c.newest_record_at).label("newest_record_at"),
            fetched.label("fetched"),
            *(func.sum(syncs.c[name]).label(name) for name in _SUMS),
        )
        .where(*_filter_clauses(account_filter))
        .group_by(syncs.c.integrated_account_id)
    )
    return statement.subquery()


def _filter_clauses(account_filter: AccountFilter) -> list[ColumnElement[bool]]:
    clauses = []
    if account_filter.id_part:
        clauses.append(syncs.c.integrated_account_id.contains(account_filter.id_part, autoescape=True))
    if account_filter.environment_id:
        clauses.append(syncs.c.environment_id == account_filter.environment_id)
    return clauses


def _build_rank(now: datetime) -> ColumnElement[int]:
    """Return the place of a sync's state among all states."""
    is_late = syncs.c.expected_at < literal(now, UtcDateTime())
    return case(
        (syncs.c.gap_records > 0, _STATES.index(SyncState.INCOMPLETE)),
        (is_late, _STATES.index(SyncState.LATE)),
        *((syncs.c.status == status, rank) for status, rank in _RANK_BY_STATUS.items()),
        *((syncs.c.verdict == verdict, rank) for verdict, rank in _RANK_BY_VERDICT.items()),
        else_=_STATES.index(SyncState.UNKNOWN),
    )


def _to_sync(row: Any) -> Sync:
    names = [name for name in Sync.__dataclass_fields__ if name not in ("state", "summary")]
    columns = {name: getattr(row, name) for name in names}
    return Sync(**columns, state=_STATES[row.rank], summary=to_run_summary(row))
