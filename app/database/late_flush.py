"""Commits that need not survive a crash of the database server."""

from sqlalchemy import ColumnElement, func

_IS_OFF = func.set_config("synchronous_commit", "off", True) == "off"


def commit_without_flush(dialect: str) -> tuple[ColumnElement[bool], ...]:
    """Return a condition, always true, that lets the transaction commit before its log is on disk.

    For changes that are repeated after a crash, such as leases: they wait for no disk. Other transactions see
    them as usual, and a later commit that is flushed flushes them too. Only in PostgreSQL, and only if the
    statement matches a row.
    """
    if dialect != "postgresql":
        return ()
    return (_IS_OFF,)
