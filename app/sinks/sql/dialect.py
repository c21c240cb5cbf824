"""Differences between databases: types, the upsert statement, and errors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

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

    def list_added_columns(self, columns: Mapping[str, ColumnConfig]) -> dict[str, str]:
        """Return the types of the columns that a table may lack: newer ones of its own, and the route's."""
        return {
            "_data_version": self.types["timestamp"],
            "_data_vseq": self.types["text"] + self.key_collation,
            **{name: self.types[column.type] for name, column in columns.items()},
        }

    def build_add_column(self, table: str, column: str, column_type: str) -> str:
        """Return the statement that adds a column."""
        return f"ALTER TABLE {quote(table)} ADD COLUMN {quote(column)} {column_type}"

    @abstractmethod
    def upsert(self, connection: Connection, target: WriteTarget, rows: Sequence[Row]) -> None:
        """Insert rows, or update older ones, in one statement."""

    @abstractmethod
    def classify_error(self, error: DBAPIError) -> ErrorAction:
        """Return the reaction to an error."""

    @abstractmethod
    def find_rejection_reason(self, error: DBAPIError) -> str:
        """Return a short stable code for the rejection of a record."""


_VERSION_COLUMNS = ("_version", "_vseq", "_job", "_run", "_method")
_RECORD_COLUMNS = ("_account", "_key", "data", *_VERSION_COLUMNS, "_deleted_at")
_TRACKING_COLUMNS = ("_first_seen_at", "_changed_at", "_written_at", "_meta")


def list_column_names(columns: Mapping[str, ColumnConfig]) -> list[str]:
    return [*_RECORD_COLUMNS, *_TRACKING_COLUMNS, *columns]


def build_conflict_clause(
    table: str, columns: Mapping[str, ColumnConfig], *, distinct: str, is_deletion: bool
) -> str:
    """Return the clause that updates rows with older data, or with an older deletion.

    `_version` and `_vseq` are the version of the row: of its deletion while it is deleted, else of its data.
    A deletion older than the data has no effect, so only a deleted row needs a second version: that of its
    data is in `_data_version` and `_data_vseq`. They are NULL if `data` is only the deletion's own payload.
    """
    merge = _merge_deletion(columns) if is_deletion else _merge_data(columns, distinct)
    # {old} and {new} are the row, and the row to write; {column} is the assigned column.
    names = {"old": quote(table), "new": "excluded"}
    assignments = (
        f"{quote(column)} = {value.format(column=quote(column), **names)}"
        for column, value in merge.values.items()
    )
    condition = merge.condition.format(**names)
    return f'ON CONFLICT ("_account", "_key") DO UPDATE SET {", ".join(assignments)} WHERE {condition}'


class _Merge(NamedTuple):
    """The assignments and the condition of an update, as templates."""

    values: dict[str, str]
    condition: str


_NEW = "{new}.{column}"
_IS_DELETED = '{old}."_deleted_at" IS NOT NULL'
_IS_NEWER = '({old}."_version", {old}."_vseq") < ({new}."_version", {new}."_vseq")'
_HAS_NO_DATA = '{old}."_data_vseq" IS NULL'
_IS_NEWER_DATA = '({old}."_data_version", {old}."_data_vseq") < ({new}."_version", {new}."_vseq")'


def _merge_data(columns: Mapping[str, ColumnConfig], distinct: str) -> _Merge:
    # The condition of the update holds: data for a row that is not deleted is newer than the row.
    is_live = f'({{old}}."_deleted_at" IS NULL OR {_IS_NEWER})'
    row_version = f"CASE WHEN {is_live} THEN {_NEW} ELSE {{old}}.{{column}} END"
    values = {
        **dict.fromkeys(("data", "_meta", *columns, "_written_at"), _NEW),
        **dict.fromkeys(_VERSION_COLUMNS, row_version),
        "_deleted_at": f"CASE WHEN {is_live} THEN NULL ELSE {{old}}.{{column}} END",
        "_data_version": f'CASE WHEN {is_live} THEN NULL ELSE {{new}}."_version" END',
        "_data_vseq": f'CASE WHEN {is_live} THEN NULL ELSE {{new}}."_vseq" END',
        "_changed_at": f'CASE WHEN {{old}}."data" {distinct} {{new}}."data" OR ({_IS_DELETED} AND {is_live}) '
        f"THEN {_NEW} ELSE {{old}}.{{column}} END",
    }
    # Equal data is updated too: without its version, a third version that arrives late would win.
    return _Merge(values, f"{_IS_NEWER} OR ({_IS_DELETED} AND ({_HAS_NO_DATA} OR {_IS_NEWER_DATA}))")


def _merge_deletion(columns: Mapping[str, ColumnConfig]) -> _Merge:
    last_data = f"CASE WHEN {_IS_DELETED} AND {_HAS_NO_DATA} THEN {_NEW} ELSE {{old}}.{{column}} END"
    data_version = f'CASE WHEN {_IS_DELETED} THEN {{old}}.{{column}} ELSE {{old}}."%s" END'
    values = {
        **dict.fromkeys((*_VERSION_COLUMNS, "_deleted_at", "_changed_at", "_written_at"), _NEW),
        **dict.fromkeys(("data", "_meta", *columns), last_data),
        "_data_version": data_version % "_version",
        "_data_vseq": data_version % "_vseq",
    }
    return _Merge(values, _IS_NEWER)
