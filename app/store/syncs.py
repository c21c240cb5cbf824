"""Syncs: the runs of one integrated account by one sync job, summed up in one row.

A row is written again, as a whole, whenever a run of its sync is summarized.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, exists, or_, select, tuple_, update

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.run_summaries import (
    SUMMARY_COLUMNS,
    RunSummary,
    SummarizedRun,
    save_summaries,
    to_run_summary,
    to_summary_columns,
)
from app.store.schema import runs, syncs

RECENT_RUNS = 20
# Workers wait for the locked runs: locks are held for milliseconds.
_RUNS_PER_TRANSACTION = 20
_KEY = (syncs.c.integrated_account_id, syncs.c.sync_job_id)

SyncKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class RecentRun:
    """A run of a sync, with its summary. last_delivery_at: of its newest delivery."""

    sync_job_run_id: str
    first_seen_at: datetime
    status: str
    last_delivery_at: datetime | None
    environment_id: str
    webhook_id: str
    summary: RunSummary


@dataclass(frozen=True, slots=True)
class Expectation:
    """The usual interval of a sync's runs, and the time from which it is late; None if unknown."""

    usual_interval_s: int | None
    expected_at: datetime | None


# From the newest runs of a sync, newest first; never of none.
Expect = Callable[[Sequence[RecentRun]], Expectation]


class Syncs:
    """The rows of `syncs`. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_summaries(
        self, summarized: Sequence[tuple[SummarizedRun, SyncKey]], *, expect: Expect, now: datetime
    ) -> None:
        """Write summaries of runs and the rows of their syncs, a few runs in one transaction.

        now: see `run_summaries.save_summaries`.
        """
        for start in range(0, len(summarized), _RUNS_PER_TRANSACTION):
            batch = summarized[start : start + _RUNS_PER_TRANSACTION]
            with self._database.transaction() as connection:
                save_summaries(connection, [run for run, _ in batch], now=now)
                _rewrite(connection, {key for _, key in batch if key[0]}, expect, now)

    def record_batches(self, received_at_by_run: Mapping[str, datetime]) -> None:
        """Store the times at which the newest batches of runs were received; they never go backwards."""
        columns = (runs.c.sync_job_run_id, runs.c.integrated_account_id, runs.c.sync_job_id)
        statement = select(*columns).where(
            runs.c.sync_job_run_id.in_(sorted(received_at_by_run)),
            runs.c.integrated_account_id != "",
            runs.c.erased_at.is_(None),
        )
        newest: dict[SyncKey, datetime] = {}
        for run_id, *key in self._database.read(statement):
            received_at = received_at_by_run[run_id]
            newest[tuple(key)] = max(received_at, newest.get(tuple(key), received_at))
        insert = insert_into(self._database.dialect.name, syncs)
        upsert = insert.on_conflict_do_update(
            index_elements=_KEY,
            set_={"newest_record_at": insert.excluded.newest_record_at},
            where=or_(
                syncs.c.newest_record_at.is_(None),
                syncs.c.newest_record_at < insert.excluded.newest_record_at,
            ),
        )
        # Ordered by key, so that two workers cannot deadlock.
        rows = [
            {"integrated_account_id": account, "sync_job_id": job, "newest_record_at": newest[account, job]}
            for account, job in sorted(newest)
        ]
        if rows:
            with self._database.transaction() as connection:
                connection.execute(upsert, rows)


def _rewrite(connection: Connection, keys: Collection[SyncKey], expect: Expect, now: datetime) -> None:
    """Write rows of syncs from their runs. Locked first: of two writers, the later one reads newer runs."""
    ordered = sorted(keys)
    if not ordered:
        return
    insert = insert_into(connection.dialect.name, syncs).on_conflict_do_nothing()
    connection.execute(
        insert, [{"integrated_account_id": account, "sync_job_id": job} for account, job in ordered]
    )
    # A run whose job was unknown at first leaves a row without a job.
    lockable = sorted({*ordered, *((account, "") for account, _ in ordered)})
    locked = select(*_KEY).where(tuple_(*_KEY).in_(lockable)).order_by(*_KEY).with_for_update()
    rows, orphans = [], []
    for account, job in connection.execute(locked).all():
        recent = _read_recent_runs(connection, account, job)
        if recent:
            rows.append(_to_row((account, job), recent, expect(recent), now))
        else:
            orphans.append((account, job))
    if rows:
        connection.execute(_UPDATE, rows)
    if orphans:
        # A run that is not summarized yet has a time of its newest record, which nothing would write again.
        has_run = exists().where(
            runs.c.integrated_account_id == syncs.c.integrated_account_id,
            runs.c.sync_job_id == syncs.c.sync_job_id,
            runs.c.erased_at.is_(None),
        )
        is_empty = or_(syncs.c.newest_record_at.is_(None), ~has_run)
        connection.execute(delete(syncs).where(tuple_(*_KEY).in_(orphans), is_empty))


def _read_recent_runs(connection: Connection, account: str, job: str) -> list[RecentRun]:
    """Return the newest summarized runs of a sync; refused ones only if there are no others.

    A refused start, such as that of an overlapping run, says nothing about the data.
    """
    parameters = {"account": account, "job": job}
    rows = connection.execute(_RECENT_RUNS, parameters | {"verdicts": ["", "refused"]}).all()
    rows = rows or connection.execute(_RECENT_RUNS, parameters | {"verdicts": [""]}).all()
    return [
        RecentRun(
            row.sync_job_run_id,
            row.first_seen_at,
            row.status,
            row.last_delivery_at,
            row.environment_id,
            row.webhook_id,
            to_run_summary(row),
        )
        for row in rows
    ]


def _to_row(
    key: SyncKey, recent: Sequence[RecentRun], expectation: Expectation, now: datetime
) -> dict[str, Any]:
    last = recent[0]
    values = {
        "environment_id": last.environment_id,
        "webhook_id": last.webhook_id,
        "last_run_id": last.sync_job_run_id,
        "last_run_at": last.first_seen_at,
        "status": last.status,
        "recent_runs": len(recent),
        "incomplete_runs": sum(run.summary.has_gaps for run in recent),
        "usual_interval_s": expectation.usual_interval_s,
        "expected_at": expectation.expected_at,
        "summarized_at": now,
        **to_summary_columns(last.summary),
    }
    return {"account": key[0], "job": key[1], **{f"new_{name}": value for name, value in values.items()}}


_RECENT_RUNS = (
    select(
        *(runs.c[name] for name in RecentRun.__dataclass_fields__ if name != "summary"),
        *(runs.c[name] for name in SUMMARY_COLUMNS),
    )
    .where(
        runs.c.integrated_account_id == bindparam("account"),
        runs.c.sync_job_id == bindparam("job"),
        runs.c.verdict.not_in(bindparam("verdicts", expanding=True)),
        runs.c.erased_at.is_(None),
    )
    .order_by(runs.c.first_seen_at.desc(), runs.c.sync_job_run_id.desc())
    .limit(RECENT_RUNS)
)
_DERIVED = [column.name for column in syncs.c if not column.primary_key and column.name != "newest_record_at"]
_UPDATE = (
    update(syncs)
    .where(syncs.c.integrated_account_id == bindparam("account"), syncs.c.sync_job_id == bindparam("job"))
    .values({name: bindparam(f"new_{name}") for name in _DERIVED})
)
