"""Differences between databases: types, the upsert statement, and errors."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.config.routes import ColumnConfig
from app.sinks.sql.columns import MAX_DECIMAL, DecimalLimits
from app.sinks.sql.comments import describe_columns, describe_table
from app.sinks.sql.merge import ADDED_COLUMNS, COLLATED_COLUMNS, CREATED_COLUMNS, NULLABLE_COLUMNS, quote
from app.sinks.sql.rows import Row

# The reaction to an error: retry, split the batch, create the table again, or wait for a correction.
ErrorAction = Literal["retry", "split", "recreate", "refuse"]


@dataclass(frozen=True, slots=True)
class WriteTarget:
    """The table and columns that rows are written to. is_deletion: as in the batches of the rows."""

    table: str
    is_deletion: bool
    columns: Mapping[str, ColumnConfig]


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of an existing table. needs_value: it is NOT NULL and has no default."""

    type: str
    needs_value: bool = False
    is_generated: bool = False


class Dialect(ABC):
    """The SQL of one kind of database."""

    types: ClassVar[Mapping[str, str]]
    # Of columns of the sink that have another type than others of their kind.
    types_by_name: ClassVar[Mapping[str, str]] = {}
    max_decimal: ClassVar[DecimalLimits] = MAX_DECIMAL
    # Of the name of a table, as a key.
    name_type: ClassVar[str] = "text"
    key_collation: ClassVar[str] = ""
    table_options: ClassVar[str] = ""
    # Whether a column of a view cannot be changed.
    views_block_changes: ClassVar[bool] = False

    @contextmanager
    def take_turns(self, connection: Connection) -> Iterator[None]:  # noqa: ARG002  # see overrides
        """Let only one session at a time create tables, in the transaction of the connection."""
        yield

    def limit_lock_wait(self, connection: Connection) -> None:  # noqa: B027  # nothing to do by default
        """Wait for no lock longer than a second in the transaction of the connection."""

    def build_create_table(self, name: str, resource: str) -> str:
        """Return the statement that creates a table unless it exists."""
        comments = describe_columns({})
        columns = ", ".join(
            f"{self._define_column(column, type_)}{'' if self.is_nullable(column) else ' NOT NULL'}"
            f"{self.build_inline_comment(comments[column])}"
            for column, type_ in self.list_created_columns().items()
        )
        return (
            f'CREATE TABLE IF NOT EXISTS {quote(name)} ({columns}, PRIMARY KEY ("_account", "_key"))'
            f"{self.table_options}{self.build_inline_comment(describe_table(resource))}"
        )

    def build_inline_comment(self, comment: str) -> str:  # noqa: ARG002  # see overrides
        """Return a comment as a part of the definition of a table or column; "" if that is not possible."""
        return ""

    def build_comments(self, table: str, comment: str, columns: Mapping[str, str]) -> list[str]:  # noqa: ARG002
        """Return statements that comment on a table, unless comment is "", and on columns of it."""
        return []

    def build_index(self, table: str) -> str:
        """Return the statement that creates the index on `_written_at` of an empty table."""
        name = quote(f"{table}__written_at_idx")
        return f'CREATE INDEX IF NOT EXISTS {name} ON {quote(table)} ("_written_at")'

    @abstractmethod
    def build_index_online(self, connection: Connection, table: str) -> None:
        """Create the index without blocking writers, and remove an incomplete one.

        connection: without a transaction. Does nothing while another process does the same.
        """

    @abstractmethod
    def build_index_advice(self, table: str) -> str:
        """Return the statement with which a person creates the index."""

    @abstractmethod
    def find_written_indexes(self, connection: Connection, table: str) -> dict[str, bool]:
        """Return the indexes that begin with `_written_at`, and whether each is complete."""

    def lacks_index(self, connection: Connection, table: str) -> bool:
        """Whether a table has no complete index that begins with `_written_at`."""
        return not any(self.find_written_indexes(connection, table).values())

    def build_live_view(self, view: str, table: str) -> str:
        """Return the statement that creates the view of the rows that are not deleted, or adds columns."""
        rows = f'SELECT * FROM {quote(table)} WHERE "_deleted_at" IS NULL'  # noqa: S608  # quoted
        return f"CREATE OR REPLACE VIEW {quote(view)} AS {rows}"

    def is_nullable(self, column: str) -> bool:
        """Whether a column takes NULL."""
        return column in NULLABLE_COLUMNS or column not in CREATED_COLUMNS

    def list_created_columns(self) -> dict[str, str]:
        """Return the types of the columns that every table is created with."""
        return self._list_types(CREATED_COLUMNS)

    def list_added_columns(self, columns: Mapping[str, ColumnConfig]) -> dict[str, str]:
        """Return the types of the columns that a table may lack: newer ones of its own, and the route's."""
        return {
            **self._list_types(ADDED_COLUMNS),
            **{name: self.types[column.type] for name, column in columns.items()},
        }

    def build_add_column(self, table: str, column: str, column_type: str, comment: str = "") -> str:
        """Return the statement that adds a column."""
        definition = f"{self._define_column(column, column_type)}{self.build_inline_comment(comment)}"
        return f"ALTER TABLE {quote(table)} ADD COLUMN {definition}"

    def _list_types(self, kinds: Mapping[str, str]) -> dict[str, str]:
        return {name: self.types_by_name.get(name, self.types[kind]) for name, kind in kinds.items()}

    def _define_column(self, name: str, column_type: str) -> str:
        return f"{quote(name)} {column_type}{self.key_collation if name in COLLATED_COLUMNS else ''}"

    def encode_time(self, time: datetime) -> object:
        """Return a time as a parameter that is compared with the sink's own columns."""
        return time

    @abstractmethod
    def upsert(self, connection: Connection, target: WriteTarget, rows: Sequence[Row]) -> None:
        """Insert rows, or update older ones, in one statement.

        rows: of one batch or several, no two with the same account and key.
        """

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
    def build_fill_advice(self, table: str, column: str, column_type: str) -> str:
        """Return the statement for a column that the sink does not fill and that takes no NULL."""

    def build_key_advice(self, table: str) -> str:
        """Return the statement that adds the primary key to a table."""
        return f'ALTER TABLE {quote(table)} ADD PRIMARY KEY ("_account", "_key");'

    def build_column_advice(self, table: str, column: str, column_type: str) -> str:
        """Return the statement with which a person adds a column."""
        return f"{self.build_add_column(table, column, column_type)};"

    def build_grant_advice(self, table: str, role: str) -> str:
        """Return the statement that grants the rights to write to a table."""
        return f"GRANT SELECT, INSERT, UPDATE ON {quote(table)} TO {quote(role) if role else 'the_role'};"

    def lacks_primary_key(self, connection: Connection, table: str) -> bool:  # noqa: ARG002  # see overrides
        """Whether `check_upsert` does not notice that the primary key is missing, and it is."""
        return False

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
