"""The SQL sink on MySQL and MariaDB."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, ClassVar

import pymysql
from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError

from app.clock import utc_now
from app.config.routes import ColumnConfig
from app.database.diagnosis import read_error_code
from app.database.mysql_sessions import MAX_PACKET_BYTES
from app.sinks.sql.columns import DecimalLimits
from app.sinks.sql.dialect import Dialect, ErrorAction, TableColumn, WriteTarget
from app.sinks.sql.merge import (
    COLLATED_COLUMNS,
    build_duplicate_key_clause,
    list_column_names,
    quote,
    quote_text,
)
from app.sinks.sql.rows import Row
from app.truto.records import to_json

# Compares every byte, spaces at the end too. Each server reads one of the two comments: the names differ.
_COLLATIONS = ("utf8mb4_nopad_bin", "utf8mb4_0900_bin")
_COLLATE = f"/*M! COLLATE {_COLLATIONS[0]} */ /*!80017 COLLATE {_COLLATIONS[1]} */"
_LOCK = "CONCAT('rapidbridge_', MD5(DATABASE()))"
_LOCK_TIMEOUT_S = 10
_PACKET_TOO_LARGE = 1153
# The statement around a row.
_STATEMENT_BYTES = 64 * 1024

_MISSING_TABLE = ("1146",)
# Columns, keys, views, rights and types of the table that another attempt meets again.
_SET_UP_CODES = (
    *("1044", "1054", "1064", "1071", "1072", "1075", "1091", "1103", "1117", "1118", "1136", "1142", "1143"),
    *("1227", "1288", "1347", "1356", "1370", "1393", "1394", "1395", "1423", "1463", "1471", "1665", "1906"),
    "3105",
)
# Values that do not fit their column.
_VALUE_CODES = ("1264", "1265", "1292", "1366", "1367", "1406", "1416", "1411", "3140", "4078")
_NULL_CODES = ("1048", "1364", "1263")
# Unique indexes, foreign keys, checks, and errors that a person's trigger raises.
_CONSTRAINT_CODES = ("1062", "1216", "1452", "1451", "1586", "1644", "3819", "4025", *_NULL_CODES)
_READ_COLUMNS = text(
    """
    SELECT COLUMN_NAME AS name, COLUMN_TYPE AS type, COLLATION_NAME AS collation,
      IS_NULLABLE = 'NO' AND COLUMN_DEFAULT IS NULL AND EXTRA NOT LIKE '%auto_increment%' AS needs_value,
      coalesce(GENERATION_EXPRESSION, '') <> '' AS is_generated
    FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :table
    ORDER BY ORDINAL_POSITION
    """
)
_READ_PRIMARY_KEY = text(
    """
    SELECT COLUMN_NAME FROM information_schema.STATISTICS
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :table AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX
    """
)
_READ_INDEXES = text(
    """
    SELECT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE()
      AND TABLE_NAME = :table AND COLUMN_NAME = '_written_at' AND SEQ_IN_INDEX = 1
    """
)
# A server that tells names by their case compares them without it in this catalog.
_READ_KIND = text(
    """
    SELECT TABLE_TYPE FROM information_schema.TABLES
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name
      AND (@@lower_case_table_names > 0 OR BINARY TABLE_NAME = :name)
    """
)
_RELATION_KINDS = {"VIEW": "view", "SYSTEM VIEW": "view", "SEQUENCE": "sequence"}


class MySQL(Dialect):
    """MySQL 8.0.17 and later, MariaDB 10.6 and later."""

    types: ClassVar[Mapping[str, str]] = {
        "text": "longtext",
        "integer": "bigint",
        "number": "double",
        "decimal": "decimal(65,30)",
        "boolean": "tinyint(1)",
        # A TIMESTAMP ends in 2038, and is read in the time zone of the session.
        "timestamp": "datetime(6)",
        "date": "date",
        # MySQL's JSON rounds numbers.
        "json": "longtext",
    }
    # An index takes 3,072 bytes: 4 for each character of the account and of the key.
    types_by_name: ClassVar[Mapping[str, str]] = {
        "_account": "varchar(255)",
        "_key": "varchar(512)",
        "_vseq": "varchar(64)",
        "_data_vseq": "varchar(64)",
    }
    # The server rounds further digits without an error.
    max_decimal = DecimalLimits(35, 30)
    name_type = "varchar(64)"
    table_options = f" ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 {_COLLATE}"

    @contextmanager
    def take_turns(self, connection: Connection) -> Iterator[None]:
        """Hold a lock of the database; without it after a timeout, because each statement may race."""
        connection.exec_driver_sql(f"SELECT GET_LOCK({_LOCK}, {_LOCK_TIMEOUT_S})")
        try:
            yield
        finally:
            # A connection of the pool would hold the lock for hours; a broken one has lost it.
            with suppress(SQLAlchemyError):
                connection.exec_driver_sql(f"SELECT RELEASE_LOCK({_LOCK})")

    def build_inline_comment(self, comment: str) -> str:
        """Return the comment."""
        return f" COMMENT {quote_text(comment)}" if comment else ""

    def build_index(self, table: str) -> str:
        """Return the statement; an index has its name in its table only."""
        return f'CREATE INDEX "_written_at" ON {quote(table)} ("_written_at")'

    def build_index_online(self, connection: Connection, table: str) -> None:
        """Create the index while others write. The server removes an interrupted one itself."""
        lock = f"CONCAT('rapidbridge_', MD5(CONCAT(DATABASE(), '.{table}')))"
        if not connection.exec_driver_sql(f"SELECT GET_LOCK({lock}, 0)").scalar_one():
            return
        try:
            if not self.find_written_indexes(connection, table):
                statement = f'ALTER TABLE {quote(table)} ADD INDEX "_written_at" ("_written_at")'
                connection.exec_driver_sql(f"{statement}, ALGORITHM=INPLACE, LOCK=NONE")
        finally:
            with suppress(SQLAlchemyError):
                connection.exec_driver_sql(f"SELECT RELEASE_LOCK({lock})")

    def build_index_advice(self, table: str) -> str:
        """Return the statement that does not block writers."""
        return f"ALTER TABLE `{table}` ADD INDEX (`_written_at`), ALGORITHM=INPLACE, LOCK=NONE;"

    def find_written_indexes(self, connection: Connection, table: str) -> dict[str, bool]:
        """Read the catalog: every index is complete."""
        return dict.fromkeys(connection.execute(_READ_INDEXES, {"table": table}).scalars(), True)

    def build_live_view(self, view: str, table: str) -> str:
        """Return the statement; readers need rights of their own, so that the view outlives its creator."""
        statement = super().build_live_view(view, table)
        return statement.replace("CREATE OR REPLACE", "CREATE OR REPLACE SQL SECURITY INVOKER", 1)

    def encode_time(self, time: datetime) -> str:
        """Return the time in UTC, as all sessions are."""
        return _format_time(time)

    def upsert(self, connection: Connection, target: WriteTarget, rows: Sequence[Row]) -> None:
        """Send statements of many rows, each of up to a megabyte; the driver splits them."""
        columns = target.columns
        _check_sizes(rows, connection.info[MAX_PACKET_BYTES])
        names = list_column_names(columns)
        statement = (
            f"INSERT INTO {quote(target.table)} ({', '.join(map(quote, names))}) "  # noqa: S608  # quoted names only
            f"VALUES ({', '.join(['%s'] * len(names))}) "
            + build_duplicate_key_clause(columns, is_deletion=target.is_deletion)
        )
        now = _format_time(utc_now())
        parameters = [
            (
                row.batch.account,
                row.record.key,
                row.record.json,
                _format_time(row.record.version),
                row.record.sequence,
                row.batch.job,
                row.batch.run,
                row.batch.method,
                _format_time(row.batch.version) if target.is_deletion else None,
                *(now, now, now),
                row.meta,
                *_encode_cells(row, columns),
            )
            for row in rows
        ]
        connection.exec_driver_sql(statement, parameters)

    def check_upsert(self, connection: Connection, table: str, columns: Mapping[str, ColumnConfig]) -> None:
        """Execute the statement with no rows."""
        names = list_column_names(columns)
        statement = (
            f"INSERT INTO {quote(table)} ({', '.join(map(quote, names))}) "  # noqa: S608  # quoted names only
            f"SELECT {', '.join(['NULL'] * len(names))} FROM DUAL WHERE false "
            f'ON DUPLICATE KEY UPDATE "_key" = {quote(table)}."_key"'
        )
        try:
            connection.exec_driver_sql(statement)
        except DBAPIError as error:
            # A trigger may fill the column that lacks a default.
            if not self.find_null_column(error):
                raise

    def lacks_primary_key(self, connection: Connection, table: str) -> bool:
        """Read the catalog: without the key, the statement adds rows and never fails."""
        if self.find_relation_kind(connection, table) != "table":
            # A person's view of a table has no key of its own.
            return False
        key = connection.execute(_READ_PRIMARY_KEY, {"table": table}).scalars().all()
        return sorted(key) != ["_account", "_key"]

    def read_columns(self, connection: Connection, table: str) -> dict[str, TableColumn]:
        """Read the catalog."""
        return {
            row.name: TableColumn(
                _describe_type(row), needs_value=bool(row.needs_value), is_generated=bool(row.is_generated)
            )
            for row in connection.execute(_READ_COLUMNS, {"table": table})
        }

    def find_relation_kind(self, connection: Connection, name: str) -> str:
        """Read the catalog: tables, views and sequences share their names."""
        kind = connection.execute(_READ_KIND, {"name": name}).scalars().first()
        return _RELATION_KINDS.get(kind, "table") if kind else ""

    def changes_values(self, found_type: str, wanted_type: str) -> bool:
        """Whether text would become a number, or keys would be compared without case or spaces."""
        is_text = any(part in found_type for part in ("text", "char", "blob", "binary", "enum", "set"))
        return "collate" in found_type or (wanted_type == "longtext" and not is_text)

    def build_retype_advice(self, table: str, column: str, column_type: str) -> str:
        """Return the statement that changes the type."""
        return (
            f"ALTER TABLE `{table}` MODIFY COLUMN `{column}` {column_type}{self._build_constraint(column)};"
        )

    def build_fill_advice(self, table: str, column: str, column_type: str) -> str:
        """Return the statement that permits NULL."""
        return f"ALTER TABLE `{table}` MODIFY COLUMN `{column}` {column_type} NULL;"

    def build_key_advice(self, table: str) -> str:
        """Return the statement that adds the primary key."""
        return f"ALTER TABLE `{table}` ADD PRIMARY KEY (`_account`, `_key`);"

    def build_column_advice(self, table: str, column: str, column_type: str) -> str:
        """Return the statement that adds a column, in the quotes of a session of a person."""
        return f"ALTER TABLE `{table}` ADD COLUMN `{column}` {column_type}{self._build_constraint(column)};"

    def build_grant_advice(self, table: str, role: str) -> str:
        """Return the statement that grants the rights to write."""
        return f"GRANT SELECT, INSERT, UPDATE, DELETE ON `{table}` TO `{role}`;"

    def may_alter(self, connection: Connection, table: str) -> bool:  # noqa: ARG002  # see Dialect
        """Return True: the catalog does not show rights that come from roles."""
        return True

    def has_row_security(self, connection: Connection, table: str) -> bool:  # noqa: ARG002  # see Dialect
        """Return False: MySQL has no policies."""
        return False

    def read_row(self, connection: Connection, columns: Mapping[str, ColumnConfig], row: Row) -> None:
        """Do nothing: MySQL reads every value."""

    def classify_error(self, error: DBAPIError) -> ErrorAction:
        """Classify by the number of the error."""
        code = read_error_code(error)
        if code in _MISSING_TABLE:
            return "recreate"
        if code in _SET_UP_CODES:
            return "refuse"
        return "split" if code in (*_VALUE_CODES, *_CONSTRAINT_CODES, str(_PACKET_TOO_LARGE)) else "retry"

    def is_value_error(self, error: DBAPIError) -> bool:
        """Whether the number is that of a value that does not fit."""
        return read_error_code(error) in _VALUE_CODES

    def find_null_column(self, error: DBAPIError) -> str:
        """Read the name in the message, such as "Column 'name' cannot be null"."""
        name = re.search(r"'([^']+)'", str(error.orig))
        return name[1] if name and read_error_code(error) in _NULL_CODES else ""

    def find_rejection_reason(self, error: DBAPIError) -> str:
        """Return the code for the number of the error."""
        code = read_error_code(error)
        if code == str(_PACKET_TOO_LARGE):
            return "too_large"
        return "constraint" if code in _CONSTRAINT_CODES else "refused"

    def _build_constraint(self, column: str) -> str:
        collate = f" {_COLLATE}" if column in COLLATED_COLUMNS else ""
        return f"{collate}{'' if self.is_nullable(column) else ' NOT NULL'}"


def _describe_type(column: Any) -> str:
    """Return a type as this module spells it: without a display width, with an unfit collation of a key."""
    name = re.sub(r"^((?:big|small|medium)?int)\(\d+\)", r"\1", column.type)
    is_unfit = column.name in COLLATED_COLUMNS and column.collation not in _COLLATIONS
    return f"{name} collate {column.collation}" if is_unfit else name


def _check_sizes(rows: Sequence[Row], max_packet_bytes: int) -> None:
    """Raise the server's own error for rows that it would not read: it closes the connection as well."""
    limit = max_packet_bytes - _STATEMENT_BYTES
    for row in rows:
        # A quote is doubled.
        if len(row.record.json_bytes) * 2 > limit and _count_bytes(row) > limit:
            fault = pymysql.err.DataError(_PACKET_TOO_LARGE, "larger than max_allowed_packet")
            raise DataError(None, None, fault)


def _count_bytes(row: Row) -> int:
    texts = [row.record.json, *(value for value in row.columns.values() if isinstance(value, str))]
    return sum(len(value.encode()) + value.count("'") for value in texts)


def _format_time(time: datetime) -> str:
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(" ", timespec="microseconds")


def _encode_cells(row: Row, columns: Mapping[str, ColumnConfig]) -> tuple[Any, ...]:
    return tuple(_encode_cell(value, columns[name].type) for name, value in row.columns.items())


def _encode_cell(value: Any, column_type: str) -> Any:
    if value is None:
        return None
    if column_type == "json":
        return to_json(value)
    # In UTC, as all sessions are. MariaDB rejects an offset, and MySQL converts by it.
    return value.removesuffix("+00:00").replace("T", " ") if column_type == "timestamp" else value
