"""The SQL sink on PostgreSQL."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.clock import utc_now
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

# States of class 42 (a faulty statement) that another attempt, or a grant, mends: a missing right, a prepared
# statement that a pooler mixed up, and a schema, table or column that another worker created first.
_TRANSIENT_STATES = ("42501", "42P05", "42P06", "42P07", "42701")


class PostgreSQL(Dialect):
    """PostgreSQL 12 and later."""

    has_advisory_locks = True
    key_collation = ' COLLATE "C"'
    types: ClassVar[Mapping[str, str]] = {
        "text": "text",
        "integer": "bigint",
        "number": "double precision",
        "boolean": "boolean",
        "timestamp": "timestamptz",
        "date": "date",
        "json": "jsonb",
    }

    def upsert(self, connection: Connection, target: WriteTarget, rows: Sequence[Row]) -> None:
        """Send the rows as one JSON array, for an eighth of the client's CPU."""
        table, batch, columns = target.table, target.batch, target.columns
        shape = ['"_key" text', '"_vseq" text', '"data" jsonb', '"_meta" jsonb']
        shape += [f"{quote(name)} {self.types[column.type]}" for name, column in columns.items()]
        expressions = {
            "_account": "%(account)s",
            "_version": "%(version)s",
            "_job": "%(job)s",
            "_run": "%(run)s",
            "_method": "%(method)s",
            "_deleted_at": "%(deleted_at)s::timestamptz",
            **dict.fromkeys(("_first_seen_at", "_changed_at", "_written_at"), "%(now)s"),
        }
        names = list_column_names(columns)
        statement = (
            f"INSERT INTO {quote(table)} ({', '.join(map(quote, names))}) "  # noqa: S608  # quoted names only
            f"SELECT {', '.join(expressions.get(name, f'r.{quote(name)}') for name in names)} "
            f"FROM jsonb_to_recordset(%(rows)s::jsonb) AS r({', '.join(shape)}) "
            f'ORDER BY r."_key" COLLATE "C" '
            + build_conflict_clause(
                table, columns, distinct="IS DISTINCT FROM", is_deletion=batch.is_deletion
            )
        )
        parameters = {
            "account": batch.account,
            "version": batch.version,
            "job": batch.job,
            "run": batch.run,
            "method": batch.method,
            "deleted_at": batch.version if batch.is_deletion else None,
            "now": utc_now(),
            "rows": f"[{','.join(map(_encode_row, rows))}]",
        }
        connection.exec_driver_sql(statement, parameters)

    def classify_error(self, error: DBAPIError) -> ErrorAction:
        """Classify by SQLSTATE; everything that another session or an operator can mend is retried."""
        state = getattr(error.orig, "sqlstate", None) or ""
        if state == "42P01":
            return "recreate"
        if state.startswith(("22", "23", "54")):
            return "split"
        return "refuse" if state.startswith("42") and state not in _TRANSIENT_STATES else "retry"

    def find_rejection_reason(self, error: DBAPIError) -> str:
        """Return the code for a SQLSTATE."""
        state = getattr(error.orig, "sqlstate", None) or ""
        if state.startswith("54"):
            return "too_deep"
        if state.startswith("23"):
            return "constraint"
        return {"22003": "number_out_of_range", "22P05": "unstorable_text"}.get(state, "refused")


def _encode_row(row: Row) -> str:
    # `data` and `meta` are JSON already: insert them unchanged.
    columns = "".join(f",{to_json(name)}:{to_json(value)}" for name, value in row.columns.items())
    key = to_json(row.key)
    return (
        f'{{"_key":{key},"_vseq":"{row.sequence}","data":{row.data},"_meta":{row.meta or "null"}{columns}}}'
    )
