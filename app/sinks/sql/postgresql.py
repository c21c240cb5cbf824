"""The SQL sink on PostgreSQL."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import ClassVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from app.clock import utc_now
from app.config.routes import ColumnConfig
from app.database.session_settings import is_pooled
from app.sinks.sql.dialect import (
    Dialect,
    ErrorAction,
    TableColumn,
    WriteTarget,
)
from app.sinks.sql.merge import build_conflict_clause, list_column_names, quote, quote_text
from app.sinks.sql.rows import Row
from app.truto.records import to_json

# States of class 42 (a faulty statement) that another attempt mends: a prepared statement that a pooler mixed
# up, and a schema, table or column that another worker created first.
_TRANSIENT_STATES = ("42P05", "42P06", "42P07", "42701")
# Errors of the table that another attempt repeats: a feature or an object of another kind than a table, such
# as a view; a generated column; an unknown type.
_SET_UP_STATES = ("0A000", "428C9", "55000", "54011")
# Raised by a person's trigger, or by the condition of a person's view.
_CHECK_STATES = ("P0001", "44000")
_RELATION_KINDS = {
    "i": "index",
    "I": "index",
    "S": "sequence",
    "v": "view",
    "m": "view",
    "c": "type",
    "t": "type",
}
_READ_COLUMNS = text(
    """
    SELECT attname AS name, format_type(atttypid, atttypmod) AS type,
      attnotnull AND NOT atthasdef AND attidentity = '' AS needs_value, attgenerated <> '' AS is_generated
    FROM pg_attribute
    WHERE attrelid = to_regclass(quote_ident(:table)) AND attnum > 0 AND NOT attisdropped
    """
)
_OWNS_TABLE = text(
    "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(quote_ident(:name))"
)
_HAS_ROW_SECURITY = text("SELECT row_security_active(to_regclass(quote_ident(:name))::oid)")
# A table also needs the name of a type: "t" is a type without a relation.
_READ_KIND = text(
    """
    SELECT coalesce(
      (SELECT relkind::text FROM pg_class WHERE oid = to_regclass(quote_ident(:name))),
      (SELECT 't' FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace
       WHERE typname = :name AND nspname = current_schema() AND typrelid = 0 AND typelem = 0))
    """
)


# An arbitrary constant.
_LOCK = text("SELECT pg_advisory_xact_lock(7262132)")

_TRY_INDEX_LOCK = text("SELECT pg_try_advisory_lock(7262133, to_regclass(quote_ident(:table))::oid::int)")
_INDEX_TIMEOUT_MS = 3_600_000
_READ_INDEXES = text(
    """
    SELECT name.relname AS name, i.indisvalid AND i.indisready AS is_complete
    FROM pg_index i JOIN pg_class name ON name.oid = i.indexrelid
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = to_regclass(quote_ident(:table)) AND a.attname = '_written_at' AND i.indpred IS NULL
    """
)


class PostgreSQL(Dialect):
    """PostgreSQL 12 and later."""

    key_collation = ' COLLATE "C"'
    views_block_changes = True
    types: ClassVar[Mapping[str, str]] = {
        "text": "text",
        "integer": "bigint",
        "number": "double precision",
        "decimal": "numeric",
        "boolean": "boolean",
        "timestamp": "timestamp with time zone",
        "date": "date",
        "json": "jsonb",
    }

    @contextmanager
    def take_turns(self, connection: Connection) -> Iterator[None]:
        """Hold a lock until the transaction ends."""
        connection.execute(_LOCK)
        yield

    def limit_lock_wait(self, connection: Connection) -> None:
        """Set the limit for the transaction."""
        connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")

    def build_comments(self, table: str, comment: str, columns: Mapping[str, str]) -> list[str]:
        """Return one statement for each comment."""
        on_table = [f"COMMENT ON TABLE {quote(table)} IS {quote_text(comment)}"] if comment else []
        return on_table + [
            f"COMMENT ON COLUMN {quote(table)}.{quote(name)} IS {quote_text(text_)}"
            for name, text_ in columns.items()
        ]

    def build_index(self, table: str) -> str:
        """Let the server choose a free name: tables and indexes share their names."""
        return f'CREATE INDEX ON {quote(table)} ("_written_at")'

    def build_index_online(self, connection: Connection, table: str) -> None:
        """Create the index concurrently, under a lock of this session.

        Behind a pooler, a session cannot hold a lock: a person creates the index.
        """
        if is_pooled(connection):
            return
        if not connection.execute(_TRY_INDEX_LOCK, {"table": table}).scalar_one():
            return
        connection.exec_driver_sql(f"SET statement_timeout = {_INDEX_TIMEOUT_MS}")
        try:
            indexes = self.find_written_indexes(connection, table)
            # An interrupted build leaves an index that slows writers down and that no query uses.
            for name in (name for name, is_complete in indexes.items() if not is_complete):
                connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {quote(name)}")
            if not any(indexes.values()):
                connection.exec_driver_sql(f'CREATE INDEX CONCURRENTLY ON {quote(table)} ("_written_at")')
        finally:
            # The end of the session frees the lock.
            connection.invalidate()

    def build_index_advice(self, table: str) -> str:
        """Return the statement that does not block writers."""
        return f'CREATE INDEX CONCURRENTLY ON {quote(table)} ("_written_at");'

    def find_written_indexes(self, connection: Connection, table: str) -> dict[str, bool]:
        """Read the catalog."""
        rows = connection.execute(_READ_INDEXES, {"table": table})
        return {row.name: row.is_complete for row in rows}

    def upsert(self, connection: Connection, target: WriteTarget, rows: Sequence[Row]) -> None:
        """Send the rows as one JSON array, for an eighth of the client's CPU."""
        batch = target.batch
        statement = self._build_upsert(target.table, target.columns, is_deletion=batch.is_deletion)
        parameters = {
            "account": batch.account,
            "version": batch.version,
            "job": batch.job,
            "run": batch.run,
            "method": batch.method,
            "deleted_at": batch.version if batch.is_deletion else None,
            "now": utc_now(),
            "rows": _encode_rows(rows, batch.version),
        }
        connection.exec_driver_sql(statement, parameters)

    def check_upsert(self, connection: Connection, table: str, columns: Mapping[str, ColumnConfig]) -> None:
        """Execute the statement with no rows: the server checks names, types and rights before."""
        names = ("account", "version", "job", "run", "method", "deleted_at", "now")
        parameters = {**dict.fromkeys(names), "rows": "[]"}
        connection.exec_driver_sql(self._build_upsert(table, columns, is_deletion=False), parameters)

    def has_row_security(self, connection: Connection, table: str) -> bool:
        """Read the server's decision: owners and superusers are exempt."""
        return bool(connection.execute(_HAS_ROW_SECURITY, {"name": table}).scalar_one_or_none())

    def read_row(self, connection: Connection, columns: Mapping[str, ColumnConfig], row: Row) -> None:
        """Read the row from its JSON."""
        statement = f"SELECT count(*) FROM {self._build_recordset(columns)}"  # noqa: S608  # quoted names only
        connection.exec_driver_sql(statement, {"rows": _encode_rows([row])})

    def read_columns(self, connection: Connection, table: str) -> dict[str, TableColumn]:
        """Read the catalog."""
        return {
            row.name: TableColumn(row.type, needs_value=row.needs_value, is_generated=row.is_generated)
            for row in connection.execute(_READ_COLUMNS, {"table": table})
        }

    def find_relation_kind(self, connection: Connection, name: str) -> str:
        """Read the catalog: tables, views, indexes and sequences share their names."""
        kind = connection.execute(_READ_KIND, {"name": name}).scalar_one_or_none()
        return _RELATION_KINDS.get(kind, "table") if kind else ""

    def changes_values(self, found_type: str, wanted_type: str) -> bool:  # noqa: ARG002  # see Dialect
        """Return False: the server rejects the values, or the person chose the precision."""
        return False

    def build_retype_advice(self, table: str, column: str, column_type: str) -> str:
        """Return the statement that changes the type."""
        value = f"to_jsonb({quote(column)})" if column_type == "jsonb" else f"{quote(column)}::{column_type}"
        change = f"ALTER COLUMN {quote(column)} TYPE {column_type} USING {value}"
        return f"ALTER TABLE {quote(table)} {change};"

    def build_fill_advice(self, table: str, column: str, column_type: str) -> str:  # noqa: ARG002  # see Dialect
        """Return the statement that permits NULL."""
        return f"ALTER TABLE {quote(table)} ALTER COLUMN {quote(column)} DROP NOT NULL;"

    def may_alter(self, connection: Connection, table: str) -> bool:
        """Whether the role owns the table."""
        return bool(connection.execute(_OWNS_TABLE, {"name": table}).scalar_one_or_none())

    def _build_recordset(self, columns: Mapping[str, ColumnConfig]) -> str:
        shape = [
            '"_key" text',
            '"_version" timestamptz',
            '"_vseq" text',
            '"data" jsonb',
            '"_meta" jsonb',
        ]
        shape += [f"{quote(name)} {self.types[column.type]}" for name, column in columns.items()]
        return f"jsonb_to_recordset(%(rows)s::jsonb) AS r({', '.join(shape)})"

    def _build_upsert(self, table: str, columns: Mapping[str, ColumnConfig], *, is_deletion: bool) -> str:
        expressions = {
            "_account": "%(account)s",
            # Most routes take the version of the event: no row repeats it.
            "_version": 'coalesce(r."_version", %(version)s)',
            "_job": "%(job)s",
            "_run": "%(run)s",
            "_method": "%(method)s",
            "_deleted_at": "%(deleted_at)s::timestamptz",
            **dict.fromkeys(("_first_seen_at", "_changed_at", "_written_at"), "%(now)s"),
        }
        names = list_column_names(columns)
        return (
            f"INSERT INTO {quote(table)} ({', '.join(map(quote, names))}) "  # noqa: S608  # quoted names only
            f"SELECT {', '.join(expressions.get(name, f'r.{quote(name)}') for name in names)} "
            f"FROM {self._build_recordset(columns)} "
            f'ORDER BY r."_key" COLLATE "C" ' + build_conflict_clause(table, columns, is_deletion=is_deletion)
        )

    def classify_error(self, error: DBAPIError) -> ErrorAction:
        """Classify by SQLSTATE: the records or a person's constraint, the table or its rights, or neither."""
        state = getattr(error.orig, "sqlstate", None) or ""
        if state == "42P01":
            return "recreate"
        if state in _SET_UP_STATES or (state.startswith("42") and state not in _TRANSIENT_STATES):
            return "refuse"
        return "split" if state.startswith(("22", "23", "54")) or state in _CHECK_STATES else "retry"

    def is_value_error(self, error: DBAPIError) -> bool:
        """Whether the SQLSTATE is of class 22."""
        return (getattr(error.orig, "sqlstate", None) or "").startswith("22")

    def find_null_column(self, error: DBAPIError) -> str:
        """Read the name that the server reports beside its message."""
        if getattr(error.orig, "sqlstate", None) != "23502":
            return ""
        return getattr(getattr(error.orig, "diag", None), "column_name", None) or ""

    def find_rejection_reason(self, error: DBAPIError) -> str:
        """Return the code for a SQLSTATE."""
        state = getattr(error.orig, "sqlstate", None) or ""
        if state.startswith("54"):
            return "too_deep"
        if state.startswith("23") or state in _CHECK_STATES:
            return "constraint"
        return {"22003": "number_out_of_range", "22P05": "unstorable_text"}.get(state, "refused")


def _encode_rows(rows: Sequence[Row], version: datetime | None = None) -> str:
    """Return rows as a JSON array. version: of the rows that are written without one."""
    return f"[{','.join(_encode_row(row, version) for row in rows)}]"


def _encode_row(row: Row, version: datetime | None) -> str:
    record = row.record
    # `data` and `meta` are JSON already: insert them unchanged.
    columns = "".join(f",{to_json(name)}:{to_json(value)}" for name, value in row.columns.items())
    own_version = "" if record.version == version else f',"_version":"{record.version.isoformat()}"'
    return (
        f'{{"_key":{to_json(record.key)},"_vseq":"{record.sequence}","data":{record.json},'
        f'"_meta":{row.meta or "null"}{own_version}{columns}}}'
    )
