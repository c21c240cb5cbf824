"""The SQL sink: writes batches to a database by one statement."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.config.routes import Route
from app.database.diagnosis import read_error_code
from app.database.engine import (
    autocommit,
    close_connections,
    describe_folder_error,
    diagnose_for,
    open_engine,
)
from app.errors import SinkRefused, SinkUnavailable
from app.sinks.base import Batch, RejectedRecord, WriteResult
from app.sinks.sql.accounts import count_rows, delete_rows
from app.sinks.sql.delete_tracking import build_tracking_values, list_columns
from app.sinks.sql.dialect import Dialect, WriteTarget
from app.sinks.sql.rows import Row, join_rows, make_rows
from app.sinks.sql.set_up import (
    LACKS_RIGHT,
    TableProblem,
    TableProblems,
    find_row_security,
    find_table_problems,
    refuse_table,
)
from app.sinks.sql.sqlite import SQLite
from app.sinks.sql.tables import SinkTables, table_name
from app.sinks.sql.unseen_rows import (
    RowCounts,
    RunScope,
    count_live_rows,
    count_marked_rows,
    mark_unseen_rows,
)

# A statement, or its wait for a lock, took too long. The server answered, so it may accept other batches.
_BATCH_TIMEOUTS = ("57014", "55P03", "1205", "1969", "3024")
# A thousand rejected records need thousands of statements: a distant server would exceed the job's timeout,
# which looks like a failure of the sink.
_SPLIT_TIMEOUT_S = 6.0


def choose_dialect(engine: Engine) -> Dialect:
    """Return the SQL of an engine's database."""
    if engine.dialect.name == "mysql":
        # An extra: its driver may be missing.
        from app.sinks.sql.mysql import MySQL  # noqa: PLC0415

        return MySQL()
    if engine.dialect.name == "postgresql":
        # An installation on SQLite never loads psycopg, which costs 40 ms.
        from app.sinks.sql.postgresql import PostgreSQL  # noqa: PLC0415

        return PostgreSQL()
    return SQLite()


class RejectedRow(NamedTuple):
    """A row that the database rejected. reason, message: as in RejectedRecord."""

    row: Row
    reason: str
    message: str


class SqlSink:
    """A PostgreSQL, SQLite, MySQL or MariaDB database with one table for each resource.

    A batch is committed whole or not at all. A repeated batch, or an older one, changes nothing: only a
    greater (_version, _vseq) replaces the data of a row, or its deletion. If the database rejects a batch, it
    is split until the rejected records stand alone, and the rest is written.
    """

    def __init__(self, url: str, *, schema: str = "") -> None:
        self._schema = schema
        try:
            self._engine = open_engine(url, schema=schema)
        except OSError as error:
            raise SinkUnavailable(describe_folder_error(error)) from error
        self._dialect = choose_dialect(self._engine)
        self._tables = SinkTables(self._engine, self._dialect, schema)

    def write(self, batch: Batch, route: Route) -> WriteResult:
        """Write a batch; see Sink."""
        [result] = self.write_batches([batch], route)
        return result

    def write_batches(self, batches: Sequence[Batch], route: Route) -> Sequence[WriteResult]:
        """Write batches by one statement, or a few if records are in several of them; see JoiningSink."""
        first = batches[0]
        target = WriteTarget(table_name(first.resource, route), first.is_deletion, list_columns(route))
        rows = [self._make_rows(batch, route) for batch in batches]
        rejected: list[RejectedRow] = []
        with self._translate_errors(target):
            self._tables.ensure_table(
                target.table, first.resource, target.columns, is_indexed=route.index_written_at
            )
            for group in join_rows(rows) if len(rows) > 1 else rows:
                if group:
                    rejected += self._write_rows(target, group)
        return [
            _build_result(batch, batch_rows, rejected)
            for batch, batch_rows in zip(batches, rows, strict=True)
        ]

    def _make_rows(self, batch: Batch, route: Route) -> list[Row]:
        shared = build_tracking_values(batch, route)
        return make_rows(batch, route.columns, self._dialect.max_decimal, shared=shared)

    def count(self, account: str) -> int:
        """Count an account's rows in every table of this sink; see Sink."""
        with self._translate_errors():
            return sum(count_rows(self._engine, table, account) for table in self._tables.list_tables())

    def erase(self, account: str) -> int:
        """Delete an account's rows from every table of this sink; see Sink."""
        with self._translate_errors():
            return sum(delete_rows(self._engine, table, account) for table in self._tables.list_tables())

    def count_live_rows(self, resource: str, route: Route, scope: RunScope) -> list[RowCounts]:
        """Count the live rows of a resource, and those that a run did not see; raises SinkUnavailable."""
        with self._translate_errors():
            table = self._ensure_table(resource, route)
            return count_live_rows(self._engine, self._dialect, table, scope)

    def mark_unseen_rows(
        self, resource: str, route: Route, scope: RunScope, runs: Sequence[str]
    ) -> Iterator[int]:
        """Mark the rows that a run did not see; see `unseen_rows`. Raises SinkUnavailable."""
        with self._translate_errors():
            table = self._ensure_table(resource, route)
            yield from mark_unseen_rows(self._engine, self._dialect, table, scope, runs)

    def count_marked_rows(self, resource: str, route: Route, scope: RunScope) -> int:
        """Count the rows that are deleted because a run did not see them; raises SinkUnavailable."""
        with self._translate_errors():
            return count_marked_rows(self._engine, self._dialect, table_name(resource, route), scope)

    def close(self) -> None:
        """Close the connections."""
        close_connections(self._engine)

    def _ensure_table(self, resource: str, route: Route) -> str:
        table = table_name(resource, route)
        self._tables.ensure_table(table, resource, list_columns(route), is_indexed=route.index_written_at)
        return table

    def _write_rows(self, target: WriteTarget, rows: Sequence[Row]) -> Sequence[RejectedRow]:
        try:
            with autocommit(self._engine) as connection:
                self._dialect.upsert(connection, target, rows)
            return ()
        except DBAPIError as error:
            if self._dialect.classify_error(error) != "split":
                raise
        rejected: list[RejectedRow] = []
        deadline_s = time.monotonic() + _SPLIT_TIMEOUT_S
        with self._engine.begin() as connection:
            problems = find_table_problems(connection, self._dialect, target.table, target.columns)
            if problems.blocking:
                raise refuse_table(target.table, problems.blocking)
            self._write_halves(connection, target, rows, problems, rejected, deadline_s=deadline_s)
        return rejected

    def _write_halves(
        self,
        connection: Connection,
        target: WriteTarget,
        rows: Sequence[Row],
        problems: TableProblems,
        rejected: list[RejectedRow],
        *,
        deadline_s: float,
    ) -> None:
        """Write rows; halve them if they fail together, until the rejected ones stand alone.

        Raises SinkUnavailable after the deadline: then nothing is written.
        """
        try:
            with connection.begin_nested():
                self._dialect.upsert(connection, target, rows)
        except DBAPIError as error:
            if self._dialect.classify_error(error) != "split":
                raise
            if len(rows) == 1:
                if causes := self._find_causes(connection, target, rows[0], error, problems):
                    raise refuse_table(target.table, causes) from error
                # The database's message may quote the record: report only its code.
                code = read_error_code(error) or "constraint"
                message = f"the database rejected the record ({code})"
                reason = self._dialect.find_rejection_reason(error)
                rejected.append(RejectedRow(rows[0], reason, message))
                return
            if time.monotonic() >= deadline_s:
                raise SinkUnavailable(
                    f"the sink's database rejects many records of a batch: to split it takes over "
                    f"{_SPLIT_TIMEOUT_S:g} s; the next attempt writes smaller batches",
                    is_batch_timeout=True,
                ) from error
            middle = len(rows) // 2
            for half in (rows[:middle], rows[middle:]):
                self._write_halves(connection, target, half, problems, rejected, deadline_s=deadline_s)

    def _find_causes(
        self,
        connection: Connection,
        target: WriteTarget,
        row: Row,
        error: DBAPIError,
        problems: TableProblems,
    ) -> Sequence[TableProblem]:
        """Return the problems of the table that reject a row; none if the row itself is the cause."""
        if column := self._dialect.find_null_column(error):
            return [problems.unfilled[column]] if column in problems.unfilled else ()
        # If the database reads the row without the table, the types of the table are the cause.
        is_type_error = problems.types and self._dialect.is_value_error(error)
        return problems.types if is_type_error and self._can_read(connection, target, row) else ()

    def _can_read(self, connection: Connection, target: WriteTarget, row: Row) -> bool:
        try:
            with connection.begin_nested():
                self._dialect.read_row(connection, target.columns, row)
        except DBAPIError:
            return False
        return True

    @contextmanager
    def _translate_errors(self, target: WriteTarget | None = None) -> Iterator[None]:
        try:
            yield
        except SinkRefused:
            # After the correction, a column may be missing again.
            self._tables.clear_cache()
            raise
        except DBAPIError as error:
            # After "recreate", the table was dropped: the retry creates it again.
            self._tables.clear_cache()
            failure = self._translate_error(error, target)
            if read_error_code(error) in LACKS_RIGHT:
                # MySQL reads the rights on a database when a session begins.
                close_connections(self._engine)
            raise failure from error
        except (SQLAlchemyError, UnicodeError) as error:
            raise self._describe_failure(error) from error

    def _translate_error(self, error: DBAPIError, target: WriteTarget | None) -> SinkUnavailable:
        failure = self._describe_failure(error)
        action = "retry" if error.connection_invalidated else self._dialect.classify_error(error)
        if target and action == "recreate":
            return SinkUnavailable(f"table {target.table} was dropped; the next attempt creates it again")
        if action != "refuse":
            return failure
        problems = self._inspect_table(target, error) if target else TableProblems()
        if target and problems.blocking:
            return refuse_table(target.table, problems.blocking)
        if target and problems.addable and read_error_code(error) not in LACKS_RIGHT:
            names = ", ".join(problems.addable)
            return SinkUnavailable(f"table {target.table} lacks {names}; the next attempt adds the columns")
        return SinkRefused("sink_set_up", str(failure))

    def _inspect_table(self, target: WriteTarget, error: DBAPIError) -> TableProblems:
        with suppress(SQLAlchemyError), self._engine.connect() as connection:
            problems = find_table_problems(connection, self._dialect, target.table, target.columns)
            if problems.blocking or read_error_code(error) not in LACKS_RIGHT:
                return problems
            return replace(problems, blocking=find_row_security(connection, self._dialect, target.table))
        return TableProblems()

    def _describe_failure(self, error: Exception) -> SinkUnavailable:
        diagnosis = diagnose_for(error, self._engine, schema=self._schema)
        return SinkUnavailable(
            f"the sink's database failed: {diagnosis}", is_batch_timeout=diagnosis.code in _BATCH_TIMEOUTS
        )


def _build_result(batch: Batch, rows: Sequence[Row], rejected_rows: Sequence[RejectedRow]) -> WriteResult:
    """Return the result of one of the batches. rejected_rows: of all of them."""
    rejected = [
        RejectedRecord(ordinal, reason, message)
        for row, reason, message in rejected_rows
        if row.batch is batch
        for ordinal in row.ordinals
    ]
    misfits = Counter(column for row in rows for column in row.misfits)
    return WriteResult(len(batch.records) - len(rejected), rejected, misfits)
