"""Writes batches to a database: one statement each, split only where a record is refused."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.config.routes import Route
from app.database.engine import one_statement, open_store
from app.errors import SinkRefused, SinkUnavailable
from app.sinks.base import Batch, Refusal, Written
from app.sinks.sql.accounts import count_rows, delete_rows
from app.sinks.sql.dialect import Dialect, Target
from app.sinks.sql.postgresql import PostgreSQL
from app.sinks.sql.rows import Row, make_rows
from app.sinks.sql.sqlite import SQLite
from app.sinks.sql.tables import Tables, table_name


class SqlSink:
    """A PostgreSQL or SQLite database, one table a resource.

    A batch is committed, or nothing of it is. The same batch again, or an older one later, changes nothing:
    a row is replaced only by a greater (_version, _vseq). Records the database cannot hold are refused one by
    one, the rest of their batch is written.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_store(url)
        self._dialect: Dialect = PostgreSQL() if self._engine.dialect.name == "postgresql" else SQLite()
        self._tables = Tables(self._engine, self._dialect)

    def write(self, batch: Batch, route: Route) -> Written:
        """Write a batch; see Sink."""
        rows, refusals = make_rows(batch, route)
        target = Target(table_name(batch.resource, route), batch, route.columns)
        with self._faults():
            self._tables.ensure(target.table, batch.resource, route.columns)
            if rows:
                refusals = [*refusals, *self._write(target, rows)]
        return Written(len(batch.records) - len(refusals), refusals)

    def count(self, account: str) -> int:
        """Count the rows of an account, in every table that this sink made; see Sink."""
        with self._faults():
            return sum(count_rows(self._engine, table, account) for table in self._tables.made())

    def erase(self, account: str) -> int:
        """Delete the rows of an account from every table that this sink made; see Sink."""
        with self._faults():
            return sum(delete_rows(self._engine, table, account) for table in self._tables.made())

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _write(self, target: Target, rows: Sequence[Row]) -> Sequence[Refusal]:
        try:
            with one_statement(self._engine) as connection:
                self._dialect.upsert(connection, target, rows)
            return ()
        except DBAPIError as error:
            if self._dialect.remedy(error) != "split":
                raise
        refusals: list[Refusal] = []
        with self._engine.begin() as connection:
            self._split(connection, target, rows, refusals)
        return refusals

    def _split(
        self, connection: Connection, target: Target, rows: Sequence[Row], refusals: list[Refusal]
    ) -> None:
        """Halve rows that fail together, until the ones at fault stand alone."""
        try:
            with connection.begin_nested():
                self._dialect.upsert(connection, target, rows)
        except DBAPIError as error:
            if self._dialect.remedy(error) != "split":
                raise
            if len(rows) == 1:
                # The database's own message may quote the record: its code must do.
                message = f"the database refuses it ({getattr(error.orig, 'sqlstate', None) or 'constraint'})"
                reason = self._dialect.reason(error)
                refusals += [Refusal(ordinal, reason, message) for ordinal in rows[0].ordinals]
                return
            middle = len(rows) // 2
            for half in (rows[:middle], rows[middle:]):
                self._split(connection, target, half, refusals)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeout as error:
            raise SinkUnavailable("no connection to the sink became free in time") from error
        except DBAPIError as error:
            raise self._fault(error) from error

    def _fault(self, error: DBAPIError) -> SinkUnavailable | SinkRefused:
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
        what = f"{type(error.orig).__name__}{f', {state}' if state else ''}"
        if not error.connection_invalidated and self._dialect.remedy(error) == "refuse":
            return SinkRefused("sink_set_up", f"the sink's table or rights do not fit ({what})")
        # Also after "recreate": somebody dropped the table, the next attempt makes it anew.
        self._tables.forget()
        return SinkUnavailable(f"the sink's database failed ({what})")
