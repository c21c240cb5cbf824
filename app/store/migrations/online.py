"""Steps of a revision that do not block the running release.

In PostgreSQL, a step commits by itself, and a revision that was interrupted runs again from its first step:
steps therefore skip what exists. A revision takes its steps first. The rest of it, such as new tables, is one
transaction with the new revision number. In SQLite, an upgrade is one transaction.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from app.database.diagnosis import read_error_code
from app.errors import StoreUnavailable

# A statement that waits for an exclusive lock blocks all later statements on the table.
_LOCK_TIMEOUT_MS = 500
_LOCK_ATTEMPTS = 20
_PAUSE_S = 1.0
_MAX_BUILD_WAIT_S = 600
_LOCK_NOT_AVAILABLE, _QUERY_CANCELED = "55P03", "57014"
_FIND_BUILD = sa.text(
    "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database() "
    "AND relid = to_regclass(:table))"
)
_FIND_INDEX = sa.text(
    "SELECT n.nspname AS schema, i.indisvalid AS is_valid FROM pg_class t "
    "JOIN pg_namespace n ON n.oid = t.relnamespace "
    "LEFT JOIN (pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND c.relname = :name) "
    "ON i.indrelid = t.oid WHERE t.oid = to_regclass(:table)"
)


def is_postgresql() -> bool:
    """Whether the revision runs on PostgreSQL."""
    return op.get_context().dialect.name == "postgresql"


def commit_step() -> None:
    """Commit everything that the revision did so far."""
    if is_postgresql():
        with op.get_context().autocommit_block():
            pass


def add_columns(table: str, *columns: sa.Column[Any]) -> None:
    """Add the missing ones of these columns.

    Raises StoreUnavailable if other sessions use the table for too long.
    """
    present = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
    missing = [column for column in columns if column.name not in present]
    if not missing:
        return
    # Locks of an earlier step must not be held while this one waits.
    commit_step()
    for attempt in range(_LOCK_ATTEMPTS):
        try:
            with op.get_bind().begin_nested():
                if is_postgresql():
                    op.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
                for column in missing:
                    op.add_column(table, column)
            break
        except DBAPIError as error:
            if read_error_code(error) != _LOCK_NOT_AVAILABLE:
                raise
            if attempt == _LOCK_ATTEMPTS - 1:
                raise StoreUnavailable(_describe_open_sessions(table)) from error
            time.sleep(_PAUSE_S)
    commit_step()


def build_index(name: str, table: str, *columns: str, where: str = "") -> None:
    """Build an index beside inserts and updates, unless it exists. where: the condition of a partial index.

    An index that an interrupted build left invalid is built again. Raises StoreUnavailable if transactions
    that were open before stay open.
    """
    condition = sa.text(where) if where else None
    if not is_postgresql():
        op.create_index(name, table, list(columns), sqlite_where=condition)
        return
    _wait_for_builds(table)
    index = op.get_bind().execute(_FIND_INDEX, {"name": name, "table": table}).one()
    if index.is_valid:
        return
    with _explain_errors(table), op.get_context().autocommit_block():
        # The schema is named: behind a pooler, the search_path is only set inside a transaction.
        if index.is_valid is False:
            op.drop_index(name, table, schema=index.schema, if_exists=True, postgresql_concurrently=True)
        op.create_index(
            name,
            table,
            list(columns),
            schema=index.schema,
            postgresql_where=condition,
            postgresql_concurrently=True,
        )


def drop_index(name: str, table: str) -> None:
    """Drop an index beside all other statements, unless it is missing."""
    if not is_postgresql():
        op.drop_index(name, table)
        return
    commit_step()
    index = op.get_bind().execute(_FIND_INDEX, {"name": name, "table": table}).one()
    with _explain_errors(table), op.get_context().autocommit_block():
        op.drop_index(name, table, schema=index.schema, if_exists=True, postgresql_concurrently=True)


def _wait_for_builds(table: str) -> None:
    """Wait until no server process builds an index of a table, perhaps for a client that was killed.

    Raises StoreUnavailable if that takes too long.
    """
    deadline = time.monotonic() + _MAX_BUILD_WAIT_S
    while True:
        # A new transaction each time: the build would wait for one that waits for the build.
        commit_step()
        if not op.get_bind().execute(_FIND_BUILD, {"table": table}).scalar_one():
            return
        if time.monotonic() > deadline:
            raise StoreUnavailable(_describe_open_sessions(table))
        time.sleep(_PAUSE_S)


@contextmanager
def _explain_errors(table: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if read_error_code(error) not in (_LOCK_NOT_AVAILABLE, _QUERY_CANCELED):
            raise
        raise StoreUnavailable(_describe_open_sessions(table)) from error
    except PendingRollbackError as error:
        # If the connection breaks, Alembic fails at the end of its block, and hides the first error.
        raise (error.__context__ or error) from None


def _describe_open_sessions(table: str) -> str:
    sessions = (
        "SELECT pid, state, xact_start, application_name FROM pg_stat_activity "
        "WHERE xact_start IS NOT NULL ORDER BY xact_start"
    )
    return (
        f"the migration stopped, because other sessions used the table {table} for too long. "
        "The completed steps are kept, and the running release is not affected. "
        f'List the open transactions with: psql "$DATABASE_URL" -c "{sessions}"; wait until old ones end, '
        "or end them with pg_terminate_backend(pid); then run: rapidbridge migrate"
    )
