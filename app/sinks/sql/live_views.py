"""Views of the rows that are not deleted: `contacts_live` for the table `contacts`."""

import hashlib
from typing import Literal

from sqlalchemy import Connection, text

from app.sinks.sql.dialect import Dialect

_REGISTRY = "rapidbridge_sink_views"
_MAX_NAME_BYTES = 63
_SUFFIX = "_live"

# taken: something else has the name. dropped: by a person. outdated: the view lacks columns of its table.
ViewState = Literal["missing", "current", "outdated", "dropped", "taken"]


def live_view_name(table: str) -> str:
    """Return the name of a table's view; one over 63 bytes contains a hash."""
    if len(table) + len(_SUFFIX) <= _MAX_NAME_BYTES:
        return table + _SUFFIX
    digest = hashlib.sha256(table.encode()).hexdigest()[:8]
    return f"{table[: _MAX_NAME_BYTES - len(_SUFFIX) - 9]}_{digest}{_SUFFIX}"


def find_view_state(connection: Connection, dialect: Dialect, table: str) -> ViewState:
    """Compare a table's view with the table."""
    view = live_view_name(table)
    kind = dialect.find_relation_kind(connection, view)
    if not is_own_view(connection, dialect, view):
        return "taken" if kind else "missing"
    if kind != "view":
        return "taken" if kind else "dropped"
    lacking = set(dialect.read_columns(connection, table)) - set(dialect.read_columns(connection, view))
    return "outdated" if lacking else "current"


def is_own_view(connection: Connection, dialect: Dialect, view: str) -> bool:
    """Whether the sink created a view of this name."""
    if not dialect.find_relation_kind(connection, _REGISTRY):
        return False
    statement = text(f"SELECT count(*) FROM {_REGISTRY} WHERE view_name = :view")  # noqa: S608  # a constant
    return bool(connection.execute(statement, {"view": view}).scalar_one())


def ensure_view(connection: Connection, dialect: Dialect, table: str, *, is_new_table: bool) -> None:
    """Create the view of a table, or add new columns to it. A view that a person dropped stays dropped."""
    state = find_view_state(connection, dialect, table)
    if state in ("current", "taken") or (state == "dropped" and not is_new_table):
        return
    view = live_view_name(table)
    # Before its entry, because MySQL commits at each definition: a failure must leave no entry.
    connection.exec_driver_sql(dialect.build_live_view(view, table))
    if state == "missing":
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {_REGISTRY} (view_name {dialect.name_type} PRIMARY KEY, "
            f"table_name {dialect.types['text']} NOT NULL){dialect.table_options}"
        )
        insert = text(f"INSERT INTO {_REGISTRY} (view_name, table_name) VALUES (:view, :table)")  # noqa: S608
        connection.execute(insert, {"view": view, "table": table})


def give_way(connection: Connection, dialect: Dialect, name: str) -> None:
    """Drop a view of the sink whose name a table needs."""
    if is_own_view(connection, dialect, name):
        if dialect.find_relation_kind(connection, name) == "view":
            connection.exec_driver_sql(f'DROP VIEW "{name}"')
        statement = text(f"DELETE FROM {_REGISTRY} WHERE view_name = :view")  # noqa: S608  # a constant
        connection.execute(statement, {"view": name})
