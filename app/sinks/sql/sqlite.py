"""The SQL sink on SQLite."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.clock import utc_now
from app.config.routes import ColumnConfig
from app.sinks.sql.dialect import (
    Dialect,
    ErrorAction,
    TableColumn,
    WriteTarget,
)
from app.sinks.sql.merge import build_conflict_clause, list_column_names, quote
from app.sinks.sql.rows import Row
from app.truto.records import to_json

# Errors of the file and its folder that another attempt repeats.
_SET_UP_ERRORS = (
    "SQLITE_AUTH",
    "SQLITE_CANTOPEN",
    "SQLITE_CORRUPT",
    "SQLITE_FULL",
    "SQLITE_NOTADB",
    "SQLITE_PERM",
    "SQLITE_READONLY",
)
# Of an index: SQLite writes about a million rows a second, and no other writer meanwhile.
_MAX_INDEXED_ROWS = 1_000_000


class SQLite(Dialect):
    """SQLite 3.35 and later."""

    types: ClassVar[Mapping[str, str]] = {
        "text": "TEXT",
        "integer": "INTEGER",
        "number": "REAL",
        # SQLite has no exact number with a fraction.
        "decimal": "TEXT",
        "boolean": "INTEGER",
        "timestamp": "TEXT",
        "date": "TEXT",
        "json": "TEXT",
    }

    def encode_time(self, time: datetime) -> str:
        """Return text that is sorted by time."""
        return _format_time(time)

    def build_index_online(self, connection: Connection, table: str) -> None:
        """Create the index unless the table is so large that writers would wait for too long."""
        statement = f"SELECT 1 FROM {quote(table)} LIMIT 1 OFFSET {_MAX_INDEXED_ROWS}"  # noqa: S608  # quoted
        if connection.exec_driver_sql(statement).first() is None:
            connection.exec_driver_sql(self.build_index(table))

    def build_index_advice(self, table: str) -> str:
        """Return the statement, during which nobody can write."""
        return f"{self.build_index(table)};"

    def find_written_indexes(self, connection: Connection, table: str) -> dict[str, bool]:
        """Read the schema: every index is complete."""
        statement = (
            "SELECT list.name FROM pragma_index_list(?) AS list, pragma_index_info(list.name) AS info "
            "WHERE info.seqno = 0 AND info.name = '_written_at' AND list.partial = 0"
        )
        return dict.fromkeys(connection.exec_driver_sql(statement, (table,)).scalars(), True)

    def build_live_view(self, view: str, table: str) -> str:
        """Return the statement; the view has new columns by itself."""
        return super().build_live_view(view, table).replace("CREATE OR REPLACE", "CREATE", 1)

    def upsert(self, connection: Connection, target: WriteTarget, rows: Sequence[Row]) -> None:
        """Execute one prepared statement for all rows."""
        table, columns = target.table, target.columns
        one_row = f"VALUES ({', '.join('?' * len(list_column_names(columns)))})"
        statement = _build_upsert(table, columns, source=one_row, is_deletion=target.is_deletion)
        now = _format_time(utc_now())
        parameters = [
            (
                row.batch.account,
                row.record.key,
                row.record.json,
                _format_time(row.record.version),
                row.record.sequence,
                row.batch.job,
                row.batch.run,
                row.batch.method,
                _format_time(row.batch.version) if target.is_deletion else None,
                *(now, now, now),
                row.meta,
                *_encode_cells(row, columns),
            )
            for row in rows
        ]
        connection.exec_driver_sql(statement, parameters)

    def check_upsert(self, connection: Connection, table: str, columns: Mapping[str, ColumnConfig]) -> None:
        """Execute the statement with no rows."""
        # EXPLAIN would do, but a prepared one does not notice that the table has changed.
        no_rows = f"SELECT {', '.join(['NULL'] * len(list_column_names(columns)))} WHERE false"
        connection.exec_driver_sql(_build_upsert(table, columns, source=no_rows, is_deletion=False))

    def read_columns(self, connection: Connection, table: str) -> dict[str, TableColumn]:
        """Read the schema; names in lower case, because SQLite ignores the case."""
        # A pragma alone reads the schema that this connection remembers.
        statement = (
            "SELECT x.* FROM sqlite_master, pragma_table_xinfo(sqlite_master.name) AS x "
            "WHERE sqlite_master.name = ? COLLATE NOCASE AND sqlite_master.type IN ('table', 'view')"
        )
        rows = connection.exec_driver_sql(statement, (table,))
        return {
            row.name.lower(): TableColumn(
                row.type,
                needs_value=bool(row.notnull) and row.dflt_value is None and not row.pk,
                is_generated=row.hidden > 1,
            )
            for row in rows
        }

    def find_relation_kind(self, connection: Connection, name: str) -> str:
        """Read the schema: tables, views and indexes share their names."""
        statement = "SELECT type FROM sqlite_master WHERE type <> 'trigger' AND name = ? COLLATE NOCASE"
        return connection.exec_driver_sql(statement, (name,)).scalar_one_or_none() or ""

    def changes_values(self, found_type: str, wanted_type: str) -> bool:
        """Whether a column for text converts text that looks like a number, such as "007"."""
        return _find_affinity(wanted_type) == "TEXT" and _find_affinity(found_type) == "NUMERIC"

    def build_retype_advice(self, table: str, column: str, column_type: str) -> str:  # noqa: ARG002
        """Return the statement that moves the column away: SQLite changes no type."""
        renamed = f"ALTER TABLE {quote(table)} RENAME COLUMN {quote(column)} TO {quote(f'{column}_old')};"
        return f"{renamed} The sink then adds the column."

    def build_fill_advice(self, table: str, column: str, column_type: str) -> str:  # noqa: ARG002  # see Dialect
        """Return the statement that removes the column: SQLite changes no constraint."""
        return f"ALTER TABLE {quote(table)} DROP COLUMN {quote(column)};"

    def may_alter(self, connection: Connection, table: str) -> bool:  # noqa: ARG002  # see Dialect
        """Return True: SQLite has no owners."""
        return True

    def has_row_security(self, connection: Connection, table: str) -> bool:  # noqa: ARG002  # see Dialect
        """Return False: SQLite has no policies."""
        return False

    def read_row(self, connection: Connection, columns: Mapping[str, ColumnConfig], row: Row) -> None:
        """Do nothing: SQLite reads every value."""

    def classify_error(self, error: DBAPIError) -> ErrorAction:
        """Classify by SQLite's error name."""
        name = getattr(error.orig, "sqlite_errorname", "") or ""
        if "no such table" in str(error.orig):
            return "recreate"
        if name.startswith(("SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_TOOBIG")):
            return "split"
        return "refuse" if name == "SQLITE_ERROR" or name.startswith(_SET_UP_ERRORS) else "retry"

    def is_value_error(self, error: DBAPIError) -> bool:
        """Whether the table is STRICT and the value has another type."""
        return getattr(error.orig, "sqlite_errorname", "") == "SQLITE_CONSTRAINT_DATATYPE"

    def find_null_column(self, error: DBAPIError) -> str:
        """Read the name at the end of the message, such as "NOT NULL constraint failed: contacts.name"."""
        is_null = getattr(error.orig, "sqlite_errorname", "") == "SQLITE_CONSTRAINT_NOTNULL"
        return str(error.orig).rpartition(".")[2].lower() if is_null else ""

    def find_rejection_reason(self, error: DBAPIError) -> str:
        """Return the code for SQLite's error name."""
        name = getattr(error.orig, "sqlite_errorname", "") or ""
        return "constraint" if name.startswith("SQLITE_CONSTRAINT") else "refused"


def _build_upsert(table: str, columns: Mapping[str, ColumnConfig], *, source: str, is_deletion: bool) -> str:
    names = ", ".join(map(quote, list_column_names(columns)))
    conflict = build_conflict_clause(table, columns, is_deletion=is_deletion)
    return f"INSERT INTO {quote(table)} ({names}) {source} {conflict}"


def _find_affinity(column_type: str) -> str:
    """Return TEXT, NUMERIC for any type of numbers, or BLOB for one that keeps every value.

    Source: https://www.sqlite.org/datatype3.html, "Determination Of Column Affinity".
    """
    name = column_type.upper()
    if "INT" not in name:
        if any(part in name for part in ("CHAR", "CLOB", "TEXT")):
            return "TEXT"
        if not name or "BLOB" in name or name == "ANY":
            return "BLOB"
    return "NUMERIC"


def _format_time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _encode_cells(row: Row, columns: Mapping[str, ColumnConfig]) -> tuple[Any, ...]:
    return tuple(
        to_json(value) if columns[name].type == "json" and value is not None else value
        for name, value in row.columns.items()
    )
