"""The metadata, and the types of columns."""

import re
from datetime import UTC, datetime

from sqlalchemy import BigInteger, Column, DateTime, Dialect, MetaData, Text
from sqlalchemy.types import TypeDecorator

PREFIX = "rapidbridge_"
# Alembic\'s table, which is none of `metadata`: a test compares that with the migrations.
VERSION_TABLE = PREFIX + "schema_version"
metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC: timestamptz in PostgreSQL, sortable text in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def replace_unstorable(text: str) -> str:
    """Return a text without characters that PostgreSQL cannot store."""
    return _UNSTORABLE.sub("\ufffd", text)


class SafeText(TypeDecorator[str]):
    """Text in which NUL and lone surrogates, which PostgreSQL cannot store, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return None if value is None else replace_unstorable(value)


def text_column(name: str) -> Column[str]:
    return Column(name, SafeText, nullable=False, server_default="")


def number_column(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")
