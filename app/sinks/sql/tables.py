"""Tables of the SQL sink: named, created, and widened by columns."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.config.routes import ColumnConfig, Route
from app.database.provision import create_schema
from app.errors import SinkRefused
from app.sinks.sql.comments import describe_columns, describe_table
from app.sinks.sql.dialect import Dialect
from app.sinks.sql.live_views import ensure_view, give_way, is_own_view
from app.sinks.sql.set_up import find_table_problems, refuse_table

_REGISTRY = "rapidbridge_sink_tables"
_RESERVED_PREFIXES = ("rapidbridge_", "sqlite_", "pg_")
_TABLE_KINDS = ("table", "view")
_MAX_NAME_BYTES = 63


def table_name(resource: str, route: Route) -> str:
    """Return the table of a resource.

    The name is the route's `table`, or the resource in lower snake case. A name over 63 bytes ends in a hash.
    A name with a reserved prefix gets the prefix "r_".
    """
    if route.table:
        return route.table
    name = re.sub(r"[^a-z0-9]+", "_", resource.lower()).strip("_")
    if not name or name.startswith(_RESERVED_PREFIXES):
        name = f"r_{name}" if name else f"r_{_digest(resource)}"
    return name if len(name) <= _MAX_NAME_BYTES else f"{name[: _MAX_NAME_BYTES - 9]}_{_digest(resource)}"


def _digest(resource: str) -> str:
    return hashlib.sha256(resource.encode()).hexdigest()[:8]


class SinkTables:
    """The sink's tables, created when needed; a table belongs to one resource."""

    def __init__(self, engine: Engine, dialect: Dialect, schema: str = "") -> None:
        self._engine = engine
        self._dialect = dialect
        self._schema = schema
        self._ready_tables: set[tuple[str, str, frozenset[tuple[str, str]]]] = set()

    def ensure_table(
        self, name: str, resource: str, columns: Mapping[str, ColumnConfig], *, is_indexed: bool = True
    ) -> None:
        """Create the table or its missing columns. Nothing is ever dropped or retyped.

        is_indexed: whether a new table gets an index on `_written_at`.
        Raises SinkRefused if the table belongs to another resource, or was not created by this sink.
        """
        table_key = (name, resource, frozenset((name, column.type) for name, column in columns.items()))
        if table_key in self._ready_tables:
            return
        dialect = self._dialect
        with self._engine.begin() as connection, dialect.take_turns(connection):
            if self._schema:
                create_schema(connection, self._schema)
            self._register_table(connection, name, resource)
            is_new = not dialect.find_relation_kind(connection, name)
            if is_new:
                connection.exec_driver_sql(dialect.build_create_table(name, resource))
                if is_indexed:
                    connection.exec_driver_sql(dialect.build_index(name))
            added = self._add_columns(connection, name, columns)
            described = list(dialect.list_created_columns()) + added if is_new else added
            self._comment(connection, name, describe_table(resource) if is_new else "", columns, described)
            if problems := find_table_problems(connection, dialect, name, columns).blocking:
                raise refuse_table(name, problems)
        if is_new or added:
            # Neither the view nor a reader of it may hold up a delivery: upkeep tries again.
            with (
                suppress(SQLAlchemyError),
                self._engine.begin() as connection,
                dialect.take_turns(connection),
            ):
                dialect.limit_lock_wait(connection)
                ensure_view(connection, dialect, name, is_new_table=is_new)
        self._ready_tables.add(table_key)

    def _ensure_view(self, table: str, *, is_new_table: bool) -> None:
        with self._engine.begin() as connection, self._dialect.take_turns(connection):
            self._dialect.limit_lock_wait(connection)
            ensure_view(connection, self._dialect, table, is_new_table=is_new_table)

    def _add_columns(
        self, connection: Connection, table: str, columns: Mapping[str, ColumnConfig]
    ) -> list[str]:
        """Add the columns that a table lacks; return their names."""
        existing, comments = self._dialect.read_columns(connection, table), describe_columns(columns)
        wanted = self._dialect.list_added_columns(columns)
        missing = [name for name in wanted if name not in existing]
        for name in missing:
            statement = self._dialect.build_add_column(table, name, wanted[name], comments[name])
            connection.exec_driver_sql(statement)
        return missing

    def _comment(
        self,
        connection: Connection,
        table: str,
        comment: str,
        columns: Mapping[str, ColumnConfig],
        described: Sequence[str],
    ) -> None:
        comments = describe_columns(columns)
        statements = self._dialect.build_comments(
            table, comment, {name: comments[name] for name in described}
        )
        # A missing right must not hold up a delivery.
        with suppress(DBAPIError), connection.begin_nested():
            for statement in statements:
                connection.exec_driver_sql(statement)

    def list_tables(self) -> dict[str, str]:
        """Return the existing tables that sinks have created in this database, with their resources."""
        with self._engine.begin() as connection:
            return {
                name: resource
                for name, resource in self._read_registry(connection).items()
                if self._dialect.find_relation_kind(connection, name) in _TABLE_KINDS
            }

    def check_name(self, connection: Connection, name: str, resource: str) -> bool:
        """Return whether a table's name is a resource's already; raise SinkRefused if it is not free."""
        correction = f"set another `table` for {resource} in its route, then restart the workers"
        if name.startswith(_RESERVED_PREFIXES):
            raise SinkRefused("table_reserved", f"table {name}: the name is reserved; {correction}")
        owner = self._read_registry(connection).get(name)
        kind = self._dialect.find_relation_kind(connection, name)
        if kind == "view" and owner is None and is_own_view(connection, self._dialect, name):
            # The live view of another table gives way.
            kind = ""
        # A person may have replaced a table by a view.
        if kind and kind not in (_TABLE_KINDS if owner else _TABLE_KINDS[:1]):
            article = "an" if kind == "index" else "a"
            raise SinkRefused(
                "table_taken",
                f"table {name} cannot be created, because the database has {article} {kind} of this name; "
                f"{correction}",
            )
        if kind and owner is None:
            raise SinkRefused(
                "table_taken", f"table {name} exists and was not created by this sink; {correction}"
            )
        if owner not in (None, resource):
            raise SinkRefused("table_collision", f"table {name} belongs to {owner}; {correction}")
        return owner is not None

    def clear_cache(self) -> None:
        """Check every table again before its next write."""
        self._ready_tables.clear()

    def _register_table(self, connection: Connection, name: str, resource: str) -> None:
        dialect = self._dialect
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {_REGISTRY} (table_name {dialect.name_type} PRIMARY KEY, "
            f"resource {dialect.types['text']} NOT NULL){dialect.table_options}"
        )
        if not self.check_name(connection, name, resource):
            give_way(connection, dialect, name)
            insert = f"INSERT INTO {_REGISTRY} (table_name, resource) VALUES (:name, :resource)"  # noqa: S608
            connection.execute(text(insert), {"name": name, "resource": resource})

    def _read_registry(self, connection: Connection) -> dict[str, str]:
        if not self._dialect.find_relation_kind(connection, _REGISTRY):
            return {}
        rows = connection.execute(text(f"SELECT * FROM {_REGISTRY} ORDER BY table_name"))  # noqa: S608  # a constant
        return {row["table_name"]: row.get("resource", "") for row in rows.mappings()}
