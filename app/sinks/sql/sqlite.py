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
    WriteTarget,
    build_conflict_clause,
    list_column_names,
    quote,
)
from app.sinks.sql.keys import to_json
from app.sinks.sql.rows import Row


class SQLite(Dialect):
    """SQLite 3.35 and later."""

    has_advisory_locks = False
    types: ClassVar[Mapping[str, str]] = {
        "text": "TEXT",
        "integer": "INTEGER",
        "number": "REAL",
        "boolean": "INTEGER",
        "timestamp": "TEXT",
        "date": "TEXT",
        "json": "TEXT",
    }

    def upsert(self, connection: Connection, target: WriteTarget, rows: Sequence[Row]) -> None:
        """Execute one prepared statement for all rows."""
        table, batch, columns = target.table, target.batch, target.columns
        names = list_column_names(columns)
        statement = (
            f"INSERT INTO {quote(table)} ({', '.join(map(quote, names))}) "  # noqa: S608  # quoted names only
            f"VALUES ({', '.join('?' * len(names))}) "
            + build_conflict_clause(table, columns, distinct="IS NOT", is_deletion=batch.is_deletion)
        )
        version, now = _format_time(batch.version), _format_time(utc_now())
        deleted_at = version if batch.is_deletion else None
        shared = (batch.job, batch.run, batch.method, deleted_at, now, now, now)
        parameters = [
            (batch.account, row.key, row.data, version, row.sequence, *shared, row.meta, *cells)
            for row, cells in ((row, _encode_cells(row, columns)) for row in rows)
        ]
        connection.exec_driver_sql(statement, parameters)

    def classify_error(self, error: DBAPIError) -> ErrorAction:
        """Classify by SQLite's error name."""
        name = getattr(error.orig, "sqlite_errorname", "") or ""
        if "no such table" in str(error.orig):
            return "recreate"
        if name.startswith(("SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_TOOBIG")):
            return "split"
        return "refuse" if name == "SQLITE_ERROR" else "retry"

    def find_rejection_reason(self, error: DBAPIError) -> str:
        """Return the code for SQLite's error name."""
        name = getattr(error.orig, "sqlite_errorname", "") or ""
        return "constraint" if name.startswith("SQLITE_CONSTRAINT") else "refused"


def _format_time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _encode_cells(row: Row, columns: Mapping[str, ColumnConfig]) -> tuple[Any, ...]:
    return tuple(
        to_json(value) if columns[name].type == "json" and value is not None else value
        for name, value in row.columns.items()
    )
