"""Tables of the SQL sink: named, created, and widened by columns."""

import hashlib
import re
from collections.abc import Mapping

from sqlalchemy import Connection, Engine, inspect, text

from app.config.routes import ColumnConfig, Route
from app.database.provision import create_schema
from app.errors import SinkRefused
from app.sinks.sql.dialect import Dialect
from app.sinks.sql.set_up import describe_table_problems, find_table_problems

_REGISTRY = "rapidbridge_sink_tables"
_RESERVED_PREFIXES = ("rapidbridge_", "sqlite_", "pg_")
_MAX_NAME_BYTES = 63
# An arbitrary constant: workers that create tables take this lock in turn.
_ADVISORY_LOCK = 7_262_132


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

    def ensure_table(self, name: str, resource: str, columns: Mapping[str, ColumnConfig]) -> None:
        """Create the table or its missing columns. Nothing is ever dropped or retyped.

        Raises SinkRefused if the table belongs to another resource, or was not created by this sink.
        """
        table_key = (name, resource, frozenset((name, column.type) for name, column in columns.items()))
        if table_key in self._ready_tables:
            return
        if name.startswith(_RESERVED_PREFIXES):
            raise SinkRefused(
                "table_reserved", f"table {name}: the name is reserved; set another `table` in its route"
            )
        with self._engine.begin() as connection:
            if self._dialect.has_advisory_locks:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
            if self._schema:
                create_schema(connection, self._schema)
            self._register_table(connection, name, resource)
            connection.exec_driver_sql(self._dialect.build_create_table(name))
            existing_columns = self._dialect.read_columns(connection, name)
            for column, column_type in self._dialect.list_added_columns(columns).items():
                if column not in existing_columns:
                    connection.exec_driver_sql(self._dialect.build_add_column(name, column, column_type))
            if problems := find_table_problems(connection, self._dialect, name, columns).blocking:
                raise SinkRefused("sink_set_up", describe_table_problems(name, problems))
        self._ready_tables.add(table_key)

    def created_tables(self) -> list[str]:
        """Return the existing tables that sinks have created in this database."""
        with self._engine.begin() as connection:
            existing = set(inspect(connection).get_table_names())
            if _REGISTRY not in existing:
                return []
            statement = f"SELECT table_name FROM {_REGISTRY} ORDER BY table_name"  # noqa: S608  # a constant
            return [name for name in connection.execute(text(statement)).scalars() if name in existing]

    def clear_cache(self) -> None:
        """Check every table again before its next write."""
        self._ready_tables.clear()

    def _register_table(self, connection: Connection, name: str, resource: str) -> None:
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {_REGISTRY} (table_name text PRIMARY KEY, resource text NOT NULL)"
        )
        owner = connection.execute(
            text(f"SELECT resource FROM {_REGISTRY} WHERE table_name = :name"),  # noqa: S608  # a constant
            {"name": name},
        ).scalar_one_or_none()
        kind = self._dialect.find_relation_kind(connection, name)
        # A table may have been replaced by a view that can be written.
        if kind not in ("", "table") and (owner is None or kind != "view"):
            article = "an" if kind == "index" else "a"
            raise SinkRefused(
                "table_taken",
                f"table {name} cannot be created, because the database has {article} {kind} of this name; "
                f"set another `table` for {resource} in its route",
            )
        if owner is None:
            if kind:
                raise SinkRefused(
                    "table_taken",
                    f"table {name} exists and was not created by this sink; set another `table` in its route",
                )
            insert = f"INSERT INTO {_REGISTRY} (table_name, resource) VALUES (:name, :resource)"  # noqa: S608
            connection.execute(text(insert), {"name": name, "resource": resource})
        elif owner != resource:
            raise SinkRefused(
                "table_collision",
                f"table {name} belongs to {owner}; set another `table` for {resource} in its route",
            )
