"""The SQL sink on PostgreSQL."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar

from psycopg.types.json import Jsonb
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
from app.truto.records import RawJson, encode_json

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


# The columns of a route with their types.
_Shape = tuple[tuple[str, str], ...]
_BATCH_SHAPE = (
    ("_account", "text"),
    ("_version", "timestamptz"),
    ("_job", "text"),
    ("_run", "text"),
    ("_method", "text"),
    ("rows", "jsonb"),
)
_OWN_SHAPE = (
    ("_key", "text"),
    ("_version", "timestamptz"),
    ("_vseq", "text"),
    ("data", "jsonb"),
    ("_meta", "jsonb"),
)
# Of all tables of a worker.
_MAX_STATEMENTS = 1024


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
        """Send the batches as one JSON array with their rows, for an eighth of the client's CPU."""
        types = self._list_shape(target.columns)
        statement = _build_upsert(target.table, types, is_deletion=target.is_deletion)
        connection.exec_driver_sql(statement, {"now": utc_now(), "batches": _encode_batches(rows)})

    def check_upsert(self, connection: Connection, table: str, columns: Mapping[str, ColumnConfig]) -> None:
        """Execute the statement with no rows: the server checks names, types and rights before."""
        statement = _build_upsert(table, self._list_shape(columns), is_deletion=False)
        connection.exec_driver_sql(statement, {"now": None, "batches": "[]"})

    def has_row_security(self, connection: Connection, table: str) -> bool:
        """Read the server's decision: owners and superusers are exempt."""
        return bool(connection.execute(_HAS_ROW_SECURITY, {"name": table}).scalar_one_or_none())

    def read_row(self, connection: Connection, columns: Mapping[str, ColumnConfig], row: Row) -> None:
        """Read the row from its JSON."""
        source = _build_source(self._list_shape(columns))
        statement = f"SELECT count(*) FROM {source}"  # noqa: S608  # quoted names only
        connection.exec_driver_sql(statement, {"batches": _encode_batches([row])})

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

    def _list_shape(self, columns: Mapping[str, ColumnConfig]) -> _Shape:
        return tuple((name, self.types[column.type]) for name, column in columns.items())

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


def _build_source(shape: _Shape) -> str:
    """Return the rows r of the batches b."""
    batch = _build_recordset("%(batches)s::jsonb", "b", _BATCH_SHAPE)
    return f"{batch} CROSS JOIN LATERAL {_build_recordset('b.rows', 'r', (*_OWN_SHAPE, *shape))}"


def _build_recordset(source: str, name: str, shape: _Shape) -> str:
    columns = ", ".join(f"{quote(column)} {type_}" for column, type_ in shape)
    return f"jsonb_to_recordset({source}) AS {name}({columns})"


# To build it takes longer than to write a row.
@lru_cache(_MAX_STATEMENTS)
def _build_upsert(table: str, shape: _Shape, *, is_deletion: bool) -> str:
    columns = [name for name, _ in shape]
    expressions = {
        # Most routes take the version of the event: no row repeats it.
        "_version": "coalesce(r._version, b._version)",
        "_deleted_at": "b._version" if is_deletion else "NULL::timestamptz",
        **{name: f"b.{name}" for name in ("_account", "_job", "_run", "_method")},
        **dict.fromkeys(("_first_seen_at", "_changed_at", "_written_at"), "%(now)s"),
    }
    names = list_column_names(columns)
    return (
        f"INSERT INTO {quote(table)} ({', '.join(map(quote, names))}) "  # noqa: S608  # quoted names only
        f"SELECT {', '.join(expressions.get(name, f'r.{quote(name)}') for name in names)} "
        f"FROM {_build_source(shape)} "
        'ORDER BY b._account COLLATE "C", r._key COLLATE "C" '
        + build_conflict_clause(table, columns, is_deletion=is_deletion)
    )


def _encode_batches(rows: Sequence[Row]) -> Jsonb:
    """Return the batches of rows as a JSON array, each with its rows."""
    rows_by_batch: dict[int, list[Row]] = {}
    for row in rows:
        rows_by_batch.setdefault(id(row.batch), []).append(row)
    batches = [_list_members(batch_rows) for batch_rows in rows_by_batch.values()]
    # Bytes: the driver would encode a text of megabytes again.
    return Jsonb(encode_json(batches), dumps=bytes)


def _list_members(rows: Sequence[Row]) -> dict[str, Any]:
    batch = rows[0].batch
    return {
        "_account": batch.account,
        "_version": batch.version.isoformat(),
        "_job": batch.job,
        "_run": batch.run,
        "_method": batch.method,
        "rows": [_list_row_members(row, batch.version) for row in rows],
    }


def _list_row_members(row: Row, version: datetime) -> dict[str, Any]:
    record = row.record
    # `data` and `_meta` are JSON already: insert them unchanged.
    members = {
        "_key": record.key,
        "_vseq": record.sequence,
        "data": RawJson(record.json_bytes),
        **row.columns,
    }
    if record.version != version:
        members["_version"] = record.version.isoformat()
    if row.meta:
        members["_meta"] = RawJson(row.meta)
    return members
