"""Set-up of a table: its differences from the sink's columns, and their corrections."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.config.routes import ColumnConfig
from app.database.diagnosis import diagnose, read_error_code
from app.errors import SinkRefused
from app.sinks.sql.dialect import Dialect
from app.sinks.sql.live_views import live_view_name
from app.sinks.sql.merge import quote

# The codes of PostgreSQL and MySQL.
LACKS_RIGHT = ("42501", "1142", "1143", "1044")


class TableProblem(NamedTuple):
    """A problem of a table, without its name, and the correction."""

    problem: str
    correction: str

    def __str__(self) -> str:
        return f"{self.problem}; {self.correction}"


@dataclass(frozen=True, slots=True)
class TableProblems:
    """Problems of one table.

    blocking: no row can be written, or its values would change. types: columns of a type that the database
    converts to, and that may round, cut or reject single values. unfilled: by name, columns that need a value
    from a trigger, because the sink writes none. addable: missing columns that the sink adds.
    """

    blocking: Sequence[TableProblem] = ()
    types: Sequence[TableProblem] = ()
    unfilled: Mapping[str, TableProblem] = field(default_factory=dict)
    addable: Sequence[str] = ()


def find_table_problems(
    connection: Connection, dialect: Dialect, table: str, columns: Mapping[str, ColumnConfig]
) -> TableProblems:
    """Compare a table with the columns of a route; writes nothing. A missing table has no problems."""
    existing = dialect.read_columns(connection, table)
    if not existing:
        return TableProblems()
    created, added = dialect.list_created_columns(), dialect.list_added_columns(columns)
    wanted = {**created, **added}
    missing = [name for name in wanted if name not in existing]
    addable = [name for name in missing if name in added] if dialect.may_alter(connection, table) else []
    blocking = [
        TableProblem(
            f"column {name} is missing",
            f"run as the owner of the table: {dialect.build_column_advice(table, name, wanted[name])}",
        )
        for name in missing
        if name not in addable
    ]
    unfilled = {
        name: TableProblem(
            f"column {name} is NOT NULL without a default, and the sink does not fill it",
            f"run: {dialect.build_fill_advice(table, name, column.type)}",
        )
        for name, column in existing.items()
        if name not in wanted and column.needs_value
    }
    types, changes_values = [], False
    for name, column in existing.items():
        if name not in wanted:
            continue
        if column.is_generated:
            blocking.append(TableProblem(f"column {name} is generated", "make it an ordinary column"))
        elif column.type.lower() != wanted[name].lower():
            correct = "correct `columns` in its route, or run" if name in columns else "run"
            advice = _build_retype_advice(connection, dialect, table, name, wanted[name])
            types.append(
                TableProblem(
                    f"column {name} has the type {column.type} instead of {wanted[name]}",
                    f"{correct}: {advice}",
                )
            )
            changes_values |= dialect.changes_values(column.type, wanted[name])
    if dialect.lacks_primary_key(connection, table):
        blocking.append(_describe_missing_key(dialect, table))
    if blocking or changes_values:
        return TableProblems([*blocking, *types], [], unfilled, addable)
    present = {name: column for name, column in columns.items() if name in existing}
    try:
        with connection.begin_nested():
            dialect.check_upsert(connection, table, present)
    except DBAPIError as error:
        if dialect.classify_error(error) != "refuse":
            raise
        role = connection.engine.url.username
        return TableProblems(types or [_describe_error(error, dialect, table, role)], [], unfilled, addable)
    return TableProblems([], types, unfilled, addable)


def _build_retype_advice(
    connection: Connection, dialect: Dialect, table: str, column: str, column_type: str
) -> str:
    advice, view = dialect.build_retype_advice(table, column, column_type), live_view_name(table)
    if not dialect.views_block_changes or dialect.find_relation_kind(connection, view) != "view":
        return advice
    return f"DROP VIEW {quote(view)}; {advice} {dialect.build_live_view(view, table)};"


def find_row_security(connection: Connection, dialect: Dialect, table: str) -> list[TableProblem]:
    """Return the problem of a table whose policies may reject rows, although the role has all rights."""
    if not dialect.has_row_security(connection, table):
        return []
    statement = f"ALTER TABLE {quote(table)} DISABLE ROW LEVEL SECURITY"
    advice = f"add a policy for the sink's role, or run as the owner of the table: {statement};"
    return [TableProblem("its row-level security rejects records", advice)]


def refuse_table(table: str, problems: Sequence[TableProblem]) -> SinkRefused:
    """Return the error of a table with these problems."""
    return SinkRefused("sink_set_up", f"table {table} does not fit: {' '.join(map(str, problems))}")


def _describe_missing_key(dialect: Dialect, table: str) -> TableProblem:
    return TableProblem("its primary key is missing", f"run: {dialect.build_key_advice(table)}")


def _describe_error(error: DBAPIError, dialect: Dialect, table: str, role: str | None) -> TableProblem:
    """Return the problem behind an error that no column explains."""
    code = read_error_code(error)
    if code in LACKS_RIGHT:
        statement = dialect.build_grant_advice(table, role or "")
        return TableProblem("the role lacks a right on it", f"run as the owner of the table: {statement}")
    if code == "42P10" or "ON CONFLICT clause does not match" in str(error.orig):
        return _describe_missing_key(dialect, table)
    is_other_kind = code in ("42809", "55000", "0A000", "1288", "1347", "1356", "1471")
    if is_other_kind or re.search("cannot (modify|UPSERT)", str(error.orig)):
        return TableProblem("it is no ordinary table", "rename it, or set another `table` in its route")
    diagnosis = diagnose(error)
    return TableProblem(f"{diagnosis.problem} ({diagnosis.code})", diagnosis.advice)
