"""Puts rows into the deliveries table, many in one statement, and counts how often each came before."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import Connection, Dialect, case, literal_column
from sqlalchemy.dialects import sqlite

from app.store.schema import deliveries, replace_unstorable

# As JSON spells it; PostgreSQL holds none in text.
_NUL = b"\\u0000"

Rows = Sequence[Mapping[str, Any]]


class InsertResult(NamedTuple):
    """A row as it stands now. refused: why, where it was refused when it first came; else None."""

    duplicates: int
    refusal_reason: str | None


# Takes rows in the order of their ids, as part of the caller's transaction; returns what stands by id.
InsertRows = Callable[[Connection, Rows], dict[UUID, InsertResult]]


def build_insert(dialect: Dialect, columns: Sequence[str]) -> InsertRows:
    """Return the way to insert rows of these columns that costs a database's client the least."""
    return (
        _build_postgresql_insert(dialect, columns) if dialect.name == "postgresql" else _build_sqlite_insert()
    )


def _build_sqlite_insert() -> InsertRows:
    statement = sqlite.insert(deliveries)
    again = deliveries.c.duplicates + statement.excluded.duplicates + 1
    upsert = statement.on_conflict_do_update(index_elements=["id"], set_={"duplicates": again})
    refused = case((deliveries.c.state == literal_column("'refused'"), deliveries.c.reason))
    returning = upsert.returning(deliveries.c.id, deliveries.c.duplicates, refused)

    def insert(connection: Connection, rows: Rows) -> dict[UUID, InsertResult]:
        return {id_: InsertResult(*values) for id_, *values in connection.execute(returning, rows)}

    return insert


def _build_postgresql_insert(dialect: Dialect, columns: Sequence[str]) -> InsertRows:
    """Send all but the bodies as one JSON array, and the bodies as they are: one text, whatever the number.

    A statement with parameters of its own for every row takes three times as long to prepare.
    """
    table = deliveries.name
    header_columns = [name for name in columns if name != "body"]
    shape = ", ".join(f"{name} {deliveries.c[name].type.compile(dialect=dialect)}" for name in header_columns)
    statement = (
        f"INSERT INTO {table} ({', '.join(header_columns)}, body) "  # noqa: S608  # names of our own
        f"SELECT * FROM ROWS FROM (jsonb_to_recordset(%s::jsonb) AS ({shape}), unnest(%b::bytea[])) "
        f"ON CONFLICT (id) DO UPDATE SET duplicates = {table}.duplicates + excluded.duplicates + 1 "
        # Not state and reason: of nearly all rows that would be text to read for nothing.
        "RETURNING id, duplicates, CASE WHEN state = 'refused' THEN reason END"
    )

    def insert(connection: Connection, rows: Rows) -> dict[UUID, InsertResult]:
        parameters = (_to_json(rows), [row["body"] for row in rows])
        return {
            id_: InsertResult(*values) for id_, *values in connection.exec_driver_sql(statement, parameters)
        }

    return insert


def _to_json(rows: Rows) -> str:
    headers = [{name: value for name, value in row.items() if name != "body"} for row in rows]
    try:
        text = msgspec.json.encode(headers)
    except UnicodeEncodeError:
        text = b""
    if not text or _NUL in text:
        text = msgspec.json.encode([{name: _replace_if_text(row[name]) for name in row} for row in headers])
    return text.decode()


def _replace_if_text(value: Any) -> Any:
    return replace_unstorable(value) if isinstance(value, str) else value
