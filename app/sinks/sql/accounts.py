"""Counting and deleting an account's rows in one table."""

from sqlalchemy import Engine, text

from app.database.engine import autocommit
from app.sinks.sql.merge import quote

# Rows deleted by one transaction.
_DELETE_BATCH_SIZE = 1000


def count_rows(engine: Engine, table: str, account: str) -> int:
    """Count an account's rows."""
    statement = f'SELECT count(*) FROM {quote(table)} WHERE "_account" = :account'  # noqa: S608  # quoted
    with autocommit(engine) as connection:
        return int(connection.execute(text(statement), {"account": account}).scalar_one())


def delete_rows(engine: Engine, table: str, account: str) -> int:
    """Delete an account's rows in batches; return their number."""
    statement = _build_delete(engine.dialect.name, quote(table))
    deleted, number = 0, _DELETE_BATCH_SIZE
    while number >= _DELETE_BATCH_SIZE:
        with autocommit(engine) as connection:
            number = connection.execute(text(statement), {"account": account}).rowcount
        deleted += number
    return deleted


def _build_delete(dialect: str, table: str) -> str:
    # Lock rows in the order in which writers lock them: otherwise both could deadlock.
    first_rows = f'WHERE "_account" = :account ORDER BY "_key" LIMIT {_DELETE_BATCH_SIZE}'
    if dialect == "mysql":
        return f"DELETE FROM {table} {first_rows}"  # noqa: S608  # quoted
    lock = " FOR UPDATE" if dialect == "postgresql" else ""
    return (
        f'DELETE FROM {table} WHERE "_account" = :account AND "_key" IN '  # noqa: S608  # quoted
        f'(SELECT "_key" FROM {table} {first_rows}{lock})'
    )
