"""INSERT … ON CONFLICT for both dialects."""

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

Insert = postgresql.Insert | sqlite.Insert


def insert_into(dialect: str, table: Table) -> Insert:
    """Return an insert that supports ON CONFLICT. dialect: "postgresql" or "sqlite"."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
