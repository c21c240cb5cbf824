"""Rows that a run did not see: counted, and marked as deleted.

A row of the run's job is unseen if it is not deleted, is not from the run, and no batch with its record was
received since the run began. A marked row keeps its version, which is also that of its data: newer data, and
a batch that was received since the run began, make it live again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Text, bindparam, text

from app.clock import utc_now
from app.sinks.sql.delete_tracking import SEEN_AT
from app.sinks.sql.dialect import Dialect
from app.sinks.sql.merge import quote

# Rows marked by one transaction.
_PAGE_SIZE = 1000
_MAX_RUNS = 1000
_IS_LIVE = '"_account" = :account AND "_deleted_at" IS NULL'
# A batch may name its run and not its job.
_IS_OF_JOB = '("_job" = :job OR ("_job" = \'\' AND "_run" IN :runs))'


@dataclass(frozen=True, slots=True)
class RunScope:
    """The run whose sights count. began_at: when its first event was received."""

    account: str
    job: str
    run: str
    began_at: datetime


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Live rows with the same job and run, and those of them that are unseen."""

    job: str
    run: str
    live: int
    unseen: int


def count_live_rows(engine: Engine, dialect: Dialect, table: str, scope: RunScope) -> list[RowCounts]:
    """Count the live and the unseen rows of the run's account by the job and run of their newest version."""
    statement = (
        f'SELECT "_job" AS job, "_run" AS run, count(*) AS live, '  # noqa: S608  # quoted
        f"sum(CASE WHEN {_build_unseen(table)} THEN 1 ELSE 0 END) AS unseen "
        f'FROM {quote(table)} WHERE {_IS_LIVE} GROUP BY "_job", "_run"'
    )
    with engine.begin() as connection:
        rows = connection.execute(text(statement), _build_parameters(dialect, scope))
        return [RowCounts(row.job, row.run, int(row.live), int(row.unseen)) for row in rows]


def mark_unseen_rows(
    engine: Engine, dialect: Dialect, table: str, scope: RunScope, runs: Sequence[str]
) -> Iterator[int]:
    """Mark unseen rows of the run's job as deleted; yield the number of each transaction.

    runs: of the job, for rows that name no job. An interrupted call is completed by the next one.
    """
    for start in range(0, len(runs) or 1, _MAX_RUNS):
        yield from _mark_pages(engine, dialect, table, scope, runs[start : start + _MAX_RUNS])


def count_marked_rows(engine: Engine, dialect: Dialect, table: str, scope: RunScope) -> int:
    """Count the rows that are deleted because the run did not see them."""
    statement = (
        f'SELECT count(*) FROM {quote(table)} WHERE "_account" = :account AND "_deleted_at" = :began_at '  # noqa: S608  # quoted
        'AND "_vseq" = "_data_vseq"'
    )
    with engine.begin() as connection:
        return int(connection.execute(text(statement), _build_parameters(dialect, scope)).scalar_one())


def _mark_pages(
    engine: Engine, dialect: Dialect, table: str, scope: RunScope, runs: Sequence[str]
) -> Iterator[int]:
    # Lock rows in the order in which writers lock them: otherwise both could deadlock.
    lock = "" if engine.dialect.name == "sqlite" else " FOR UPDATE"
    page = text(
        f'SELECT "_key" FROM {quote(table)} WHERE {_IS_LIVE} AND {_build_unseen(table)} AND {_IS_OF_JOB} '  # noqa: S608  # quoted
        f'AND "_key" > :after ORDER BY "_key" LIMIT {_PAGE_SIZE}{lock}'
    ).bindparams(bindparam("runs", expanding=True, type_=Text))
    mark = text(
        f'UPDATE {quote(table)} SET "_data_version" = "_version", "_data_vseq" = "_vseq", '  # noqa: S608  # quoted
        '"_deleted_at" = :began_at, "_changed_at" = :now, "_written_at" = :now '
        'WHERE "_account" = :account AND "_key" IN :keys'
    ).bindparams(bindparam("keys", expanding=True, type_=Text))
    parameters = _build_parameters(dialect, scope) | {"runs": list(runs), "job": scope.job, "after": ""}
    keys: Sequence[str] = [""]
    # PostgreSQL returns fewer rows than the limit if writers change some of them meanwhile.
    while keys:
        with engine.begin() as connection:
            keys = connection.execute(page, parameters).scalars().all()
            if keys:
                now = dialect.encode_time(utc_now())
                connection.execute(mark, parameters | {"keys": list(keys), "now": now})
                parameters["after"] = keys[-1]
        if keys:
            yield len(keys)


def _build_unseen(table: str) -> str:
    # SQLite reads a name that is no column as a text, unless the name of its table is before it.
    seen_at = f"{quote(table)}.{quote(SEEN_AT)}"
    return f'"_run" <> :run AND ({seen_at} IS NULL OR {seen_at} < :began_at)'


def _build_parameters(dialect: Dialect, scope: RunScope) -> dict[str, Any]:
    return {
        "account": scope.account,
        "run": scope.run,
        "began_at": dialect.encode_time(scope.began_at),
    }
