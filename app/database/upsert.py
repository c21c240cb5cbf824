"""The one kind of statement that SQLAlchemy spells by dialect: insert, or change what is there."""

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

Insert = postgresql.Insert | sqlite.Insert


def insert_into(dialect: str, table: Table) -> Insert:
    """Return an insert that can say what to do on a conflict. dialect: its name."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
