"""Inserts many deliveries in one statement and counts duplicates."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import msgspec
from sqlalchemy import Connection, Dialect, Engine, case, literal_column
from sqlalchemy.dialects import sqlite

from app.database.driver_statement import execute_and_commit
from app.store.schema import deliveries, replace_unstorable

# NUL in JSON, which PostgreSQL cannot store in text.
_NUL = b"\\u0000"

Rows = Sequence[Mapping[str, Any]]


class InsertResult(NamedTuple):
    """A stored row. refusal_reason: of a delivery that was refused when it first arrived, else None."""

    duplicates: int
    refusal_reason: str | None


class BulkInsert(Protocol):
    """An insert of rows that are ordered by id; returns the stored rows by id."""

    def insert(self, connection: Connection, rows: Rows) -> dict[UUID, InsertResult]:
        """Insert in the caller's transaction."""

    def insert_and_commit(self, engine: Engine, rows: Rows) -> dict[UUID, InsertResult]:
        """Insert in a transaction of its own."""


def build_insert(dialect: Dialect, columns: Sequence[str]) -> BulkInsert:
    """Return the fastest insert of these columns for a dialect."""
    return _PostgresqlInsert(dialect, columns) if dialect.name == "postgresql" else _SqliteInsert()


class _SqliteInsert:
    def __init__(self) -> None:
        statement = sqlite.insert(deliveries)
        duplicates = deliveries.c.duplicates + statement.excluded.duplicates + 1
        upsert = statement.on_conflict_do_update(index_elements=["id"], set_={"duplicates": duplicates})
        refused = case((deliveries.c.state == literal_column("'refused'"), deliveries.c.reason))
        self._statement = upsert.returning(deliveries.c.id, deliveries.c.duplicates, refused)

    def insert(self, connection: Connection, rows: Rows) -> dict[UUID, InsertResult]:
        return _to_results(connection.execute(self._statement, rows))

    def insert_and_commit(self, engine: Engine, rows: Rows) -> dict[UUID, InsertResult]:
        with engine.begin() as connection:
            return self.insert(connection, rows)


class _PostgresqlInsert:
    """Sends the bodies as an array and all other columns as one JSON array: two parameters for any number.

    A statement with parameters for every row takes three times as long to prepare.
    """

    def __init__(self, dialect: Dialect, columns: Sequence[str]) -> None:
        table = deliveries.name
        header_columns = [name for name in columns if name != "body"]
        shape = ", ".join(
            f"{name} {deliveries.c[name].type.compile(dialect=dialect)}" for name in header_columns
        )
        self._statement = (
            f"INSERT INTO {table} ({', '.join(header_columns)}, body) "  # noqa: S608  # only names of this code
            f"SELECT * FROM ROWS FROM (jsonb_to_recordset(%s::jsonb) AS ({shape}), unnest(%b::bytea[])) "
            f"ON CONFLICT (id) DO UPDATE SET duplicates = {table}.duplicates + excluded.duplicates + 1 "
            # Few rows are refused: returning the state and reason of all rows would waste time.
            "RETURNING id, duplicates, CASE WHEN state = 'refused' THEN reason END"
        )

    def insert(self, connection: Connection, rows: Rows) -> dict[UUID, InsertResult]:
        return _to_results(connection.exec_driver_sql(self._statement, _to_parameters(rows)))

    def insert_and_commit(self, engine: Engine, rows: Rows) -> dict[UUID, InsertResult]:
        return _to_results(execute_and_commit(engine, self._statement, _to_parameters(rows)))


def _to_results(stored: Iterable[Sequence[Any]]) -> dict[UUID, InsertResult]:
    return {id_: InsertResult(duplicates, refusal_reason) for id_, duplicates, refusal_reason in stored}


def _to_parameters(rows: Rows) -> tuple[str, list[bytes]]:
    headers = [{name: value for name, value in row.items() if name != "body"} for row in rows]
    return encode_rows(headers), [row["body"] for row in rows]


def encode_rows(rows: Rows) -> str:
    """Return rows as a JSON array, without characters that PostgreSQL cannot store."""
    try:
        text = msgspec.json.encode(rows)
    except UnicodeEncodeError:
        text = b""
    if not text or _NUL in text:
        text = msgspec.json.encode([{name: _replace_if_text(row[name]) for name in row} for row in rows])
    return text.decode()


def _replace_if_text(value: Any) -> Any:
    return replace_unstorable(value) if isinstance(value, str) else value
