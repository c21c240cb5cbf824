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

# The reaction to an error: retry, split the batch, create the table again, or wait for a correction.
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


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of an existing table. needs_value: it is NOT NULL and has no default."""

    type: str
    needs_value: bool = False
    is_generated: bool = False


class Dialect(ABC):
    """The SQL of one kind of database."""

    has_advisory_locks: ClassVar[bool]
    types: ClassVar[Mapping[str, str]]
    key_collation: ClassVar[str] = ""

    def build_create_table(self, name: str) -> str:
        """Return the statement that creates a table unless it exists."""
        columns = ", ".join(
            f"{self._define_column(column, type_)}{'' if column in _NULLABLE_COLUMNS else ' NOT NULL'}"
            for column, type_ in self.list_created_columns().items()
        )
        return f'CREATE TABLE IF NOT EXISTS {quote(name)} ({columns}, PRIMARY KEY ("_account", "_key"))'

    def list_created_columns(self) -> dict[str, str]:
        """Return the types of the columns that every table is created with."""
        return {name: self.types[kind] for name, kind in _CREATED_COLUMNS.items()}

    def list_added_columns(self, columns: Mapping[str, ColumnConfig]) -> dict[str, str]:
        """Return the types of the columns that a table may lack: newer ones of its own, and the route's."""
        return {
            "_data_version": self.types["timestamp"],
            "_data_vseq": self.types["text"],
            **{name: self.types[column.type] for name, column in columns.items()},
        }

    def build_add_column(self, table: str, column: str, column_type: str) -> str:
        """Return the statement that adds a column."""
        return f"ALTER TABLE {quote(table)} ADD COLUMN {self._define_column(column, column_type)}"

    def _define_column(self, name: str, column_type: str) -> str:
        return f"{quote(name)} {column_type}{self.key_collation if name in _COLLATED_COLUMNS else ''}"

    @abstractmethod
    def upsert(self, connection: Connection, target: WriteTarget, rows: Sequence[Row]) -> None:
        """Insert rows, or update older ones, in one statement."""

    @abstractmethod
    def check_upsert(self, connection: Connection, table: str, columns: Mapping[str, ColumnConfig]) -> None:
        """Prepare the statement of `upsert` without writing a row; raises the database's error."""

    @abstractmethod
    def read_columns(self, connection: Connection, table: str) -> dict[str, TableColumn]:
        """Return the columns of a table; none if it does not exist."""

    @abstractmethod
    def find_relation_kind(self, connection: Connection, name: str) -> str:
        """Return the kind of the table, view, index, … with a name; "" if the name is free."""

    @abstractmethod
    def changes_values(self, found_type: str, wanted_type: str) -> bool:
        """Whether a column of one type silently changes the values of another."""

    @abstractmethod
    def build_retype_advice(self, table: str, column: str, column_type: str) -> str:
        """Return the advice for a column of the wrong type, with a statement to run."""

    @abstractmethod
    def build_fill_advice(self, table: str, column: str) -> str:
        """Return the statement for a column that the sink does not fill and that takes no NULL."""

    @abstractmethod
    def may_alter(self, connection: Connection, table: str) -> bool:
        """Whether the session may add a column to a table."""

    @abstractmethod
    def has_row_security(self, connection: Connection, table: str) -> bool:
        """Whether policies decide which rows of a table the session may write."""

    @abstractmethod
    def read_row(self, connection: Connection, columns: Mapping[str, ColumnConfig], row: Row) -> None:
        """Read a row as the sink's own types, without a table; raises the database's error."""

    @abstractmethod
    def classify_error(self, error: DBAPIError) -> ErrorAction:
        """Return the reaction to an error."""

    @abstractmethod
    def is_value_error(self, error: DBAPIError) -> bool:
        """Whether a value does not fit the type of its column."""

    @abstractmethod
    def find_null_column(self, error: DBAPIError) -> str:
        """Return the column whose NOT NULL rejects a row; "" for another error."""

    @abstractmethod
    def find_rejection_reason(self, error: DBAPIError) -> str:
        """Return a short stable code for the rejection of a record."""


_CREATED_COLUMNS = {
    "_account": "text",
    "_key": "text",
    "data": "json",
    "_version": "timestamp",
    "_vseq": "text",
    "_job": "text",
    "_run": "text",
    "_method": "text",
    "_deleted_at": "timestamp",
    "_first_seen_at": "timestamp",
    "_changed_at": "timestamp",
    "_written_at": "timestamp",
    "_meta": "json",
}
_NULLABLE_COLUMNS = ("_deleted_at", "_meta")
# Compared by bytes, in every locale.
_COLLATED_COLUMNS = ("_account", "_key", "_vseq", "_data_vseq")
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
