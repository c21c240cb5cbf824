"""SQL that all destinations understand. Names are quoted by the caller. Pure."""

from collections.abc import Callable, Mapping, Sequence

Quote = Callable[[str], str]


def build_view(view: str, table: str, columns: Sequence[str], quote: Quote) -> str:
    """Return the statement that creates the view of the newest versions, without deleted records.

    A version that was written twice has equal rows, or rows by different routes: the last attempt wins.
    """
    names = ", ".join(quote(column) for column in columns)
    record = ", ".join(map(quote, ("_resource", "_account", "_key")))
    order = ", ".join(f"{quote(column)} DESC" for column in ("_version", "_vseq", "_attempt"))
    return (
        f"CREATE OR REPLACE VIEW {view} AS SELECT {names} FROM ("
        f"SELECT {names}, row_number() OVER (PARTITION BY {record} ORDER BY {order}) AS _version_rank "
        f"FROM {table}) AS versions WHERE _version_rank = 1 AND NOT {quote('_is_deletion')}"
    )


def build_view_check(views: Mapping[str, Sequence[str]], quote: Quote) -> str:
    """Return a query without rows that fails if a view is missing or lacks one of its columns."""
    return " UNION ALL ".join(
        f"SELECT 1 FROM (SELECT {', '.join(map(quote, columns))} FROM {view} WHERE 1 = 0) AS no_rows"
        for view, columns in views.items()
    )


def build_count(table: str, quote: Quote) -> str:
    """Return the query that counts the rows of an account, its parameter."""
    return f"SELECT count(*) FROM {table} WHERE {quote('_account')} = %s"


def build_erasure(table: str, quote: Quote) -> str:
    """Return the statement that deletes the rows of an account, its parameter."""
    return f"DELETE FROM {table} WHERE {quote('_account')} = %s"


def build_cleaning(table: str, quote: Quote) -> str:
    """Return the statement that deletes the rows of a load's earlier attempts: its id, this attempt."""
    return f"DELETE FROM {table} WHERE {quote('_load')} = %s AND {quote('_attempt')} < %s"
