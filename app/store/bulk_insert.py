"""Inserts many deliveries in one statement and counts duplicates."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import Connection, Dialect, case, literal_column
from sqlalchemy.dialects import sqlite

from app.store.schema import deliveries, replace_unstorable

# NUL in JSON, which PostgreSQL cannot store in text.
_NUL = b"\\u0000"

Rows = Sequence[Mapping[str, Any]]


class InsertResult(NamedTuple):
    """A stored row. refusal_reason: of a delivery that was refused when it first arrived, else None."""

    duplicates: int
    refusal_reason: str | None


# Takes rows ordered by id and runs in the caller's transaction; returns the stored rows by id.
InsertRows = Callable[[Connection, Rows], dict[UUID, InsertResult]]


def build_insert(dialect: Dialect, columns: Sequence[str]) -> InsertRows:
    """Return the fastest insert of these columns for a dialect."""
    return (
        _build_postgresql_insert(dialect, columns) if dialect.name == "postgresql" else _build_sqlite_insert()
    )


def _build_sqlite_insert() -> InsertRows:
    statement = sqlite.insert(deliveries)
    duplicates = deliveries.c.duplicates + statement.excluded.duplicates + 1
    upsert = statement.on_conflict_do_update(index_elements=["id"], set_={"duplicates": duplicates})
    refused = case((deliveries.c.state == literal_column("'refused'"), deliveries.c.reason))
    returning = upsert.returning(deliveries.c.id, deliveries.c.duplicates, refused)

    def insert(connection: Connection, rows: Rows) -> dict[UUID, InsertResult]:
        return {id_: InsertResult(*values) for id_, *values in connection.execute(returning, rows)}

    return insert


def _build_postgresql_insert(dialect: Dialect, columns: Sequence[str]) -> InsertRows:
    """Send the bodies as an array and all other columns as one JSON array: two parameters for any number.

    A statement with parameters for every row takes three times as long to prepare.
    """
    table = deliveries.name
    header_columns = [name for name in columns if name != "body"]
    shape = ", ".join(f"{name} {deliveries.c[name].type.compile(dialect=dialect)}" for name in header_columns)
    statement = (
        f"INSERT INTO {table} ({', '.join(header_columns)}, body) "  # noqa: S608  # only names of this code
        f"SELECT * FROM ROWS FROM (jsonb_to_recordset(%s::jsonb) AS ({shape}), unnest(%b::bytea[])) "
        f"ON CONFLICT (id) DO UPDATE SET duplicates = {table}.duplicates + excluded.duplicates + 1 "
        # Few rows are refused: returning the state and reason of all rows would waste time.
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
