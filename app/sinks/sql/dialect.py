"""Differences between databases: types, the upsert statement, and errors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.config.routes import ColumnConfig
from app.sinks.base import Batch
from app.sinks.sql.rows import Row

# The reaction to an error: retry, split the batch, create the table again, or refuse the batch.
ErrorAction = Literal["retry", "split", "recreate", "refuse"]


def quote(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class WriteTarget:
    """The table and columns that a batch is written to."""

    table: str
    batch: Batch
    columns: Mapping[str, ColumnConfig]


class Dialect(ABC):
    """The SQL of one kind of database."""

    has_advisory_locks: ClassVar[bool]
    types: ClassVar[Mapping[str, str]]
    key_collation: ClassVar[str] = ""

    def build_create_table(self, name: str) -> str:
        """Return the statement that creates a table unless it exists."""
        text, time, collated = self.types["text"], self.types["timestamp"], self.key_collation
        return (
            f"CREATE TABLE IF NOT EXISTS {quote(name)} ("
            f'"_account" {text}{collated} NOT NULL, "_key" {text}{collated} NOT NULL, '
            f'"data" {self.types["json"]} NOT NULL, '
            f'"_version" {time} NOT NULL, "_vseq" {text}{collated} NOT NULL, '
            f'"_job" {text} NOT NULL, "_run" {text} NOT NULL, "_method" {text} NOT NULL, '
            f'"_deleted_at" {time}, "_first_seen_at" {time} NOT NULL, '
            f'"_changed_at" {time} NOT NULL, "_written_at" {time} NOT NULL, '
            f'"_meta" {self.types["json"]}, '
            'PRIMARY KEY ("_account", "_key"))'
        )

    def build_add_column(self, table: str, column: str, kind: str) -> str:
        """Return the statement that adds a column of a type that a route names."""
        return f"ALTER TABLE {quote(table)} ADD COLUMN {quote(column)} {self.types[kind]}"

    @abstractmethod
    def upsert(self, connection: Connection, target: WriteTarget, rows: Sequence[Row]) -> None:
        """Insert rows, or update older ones, in one statement."""

    @abstractmethod
    def classify_error(self, error: DBAPIError) -> ErrorAction:
        """Return the reaction to an error."""

    @abstractmethod
    def find_rejection_reason(self, error: DBAPIError) -> str:
        """Return a short stable code for the rejection of a record."""


_RECORD_COLUMNS = ("_account", "_key", "data", "_version", "_vseq", "_job", "_run", "_method", "_deleted_at")
_TRACKING_COLUMNS = ("_first_seen_at", "_changed_at", "_written_at", "_meta")


def list_column_names(columns: Mapping[str, ColumnConfig]) -> list[str]:
    return [*_RECORD_COLUMNS, *_TRACKING_COLUMNS, *columns]


def build_conflict_clause(table: str, columns: Mapping[str, ColumnConfig], *, distinct: str) -> str:
    """Return the clause that updates older rows.

    Equal data is updated too: without its version, a third version that arrives late would win.
    """
    unchanged = {"_account", "_key", "_first_seen_at", "_changed_at"}
    changed = [
        f"{quote(name)} = excluded.{quote(name)}"
        for name in list_column_names(columns)
        if name not in unchanged
    ]
    current = quote(table)
    return (
        f'ON CONFLICT ("_account", "_key") DO UPDATE SET {", ".join(changed)}, '
        f'"_changed_at" = CASE WHEN {current}."data" {distinct} excluded."data" '
        f'OR {current}."_deleted_at" {distinct} excluded."_deleted_at" '
        f'THEN excluded."_changed_at" ELSE {current}."_changed_at" END '
        f'WHERE ({current}."_version", {current}."_vseq") < (excluded."_version", excluded."_vseq")'
    )
