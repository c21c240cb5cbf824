"""Counting and deleting an account's rows in one table."""

from sqlalchemy import Engine, text

from app.database.engine import autocommit
from app.sinks.sql.dialect import quote

# Rows deleted by one transaction.
_DELETE_BATCH_SIZE = 1000


def count_rows(engine: Engine, table: str, account: str) -> int:
    """Count an account's rows."""
    statement = f'SELECT count(*) FROM {quote(table)} WHERE "_account" = :account'  # noqa: S608  # quoted
    with autocommit(engine) as connection:
        return int(connection.execute(text(statement), {"account": account}).scalar_one())


def delete_rows(engine: Engine, table: str, account: str) -> int:
    """Delete an account's rows in batches; return their number."""
    # Lock rows in the order in which writers lock them: otherwise both could deadlock.
    lock = " FOR UPDATE" if engine.dialect.name == "postgresql" else ""
    statement = (
        f'DELETE FROM {quote(table)} WHERE "_account" = :account AND "_key" IN ('  # noqa: S608  # quoted
        f'SELECT "_key" FROM {quote(table)} WHERE "_account" = :account '
        f'ORDER BY "_key" LIMIT {_DELETE_BATCH_SIZE}{lock})'
    )
    deleted, number = 0, _DELETE_BATCH_SIZE
    while number >= _DELETE_BATCH_SIZE:
        with autocommit(engine) as connection:
            number = connection.execute(text(statement), {"account": account}).rowcount
        deleted += number
    return deleted
