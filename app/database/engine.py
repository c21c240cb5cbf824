"""The store's database: connections, transactions, and StoreUnavailable for driver errors."""

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Dialect, Engine, Executable, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from app.errors import ConfigError, StoreUnavailable

# Truto drops a page within seconds: a dead database must be detected before that.
_CONNECT_TIMEOUT_S = 5
_STATEMENT_TIMEOUT_MS = 15_000
_SQLITE_BUSY_TIMEOUT_S = 15
# The default suits spinning disks: PostgreSQL would read a whole table instead of the index on a run.
_RANDOM_PAGE_COST = 1.1
# A process that stalls inside a transaction must not hold its locks forever.
_IDLE_IN_TRANSACTION_MS = 10_000


def open_engine(
    url: str, *, lock_timeout_s: float = _SQLITE_BUSY_TIMEOUT_S, interactive: bool = False
) -> Engine:
    """Prepare a connection pool; connects on first use.

    url: sqlite:///path, postgres://… or postgresql://…. The folder of a SQLite file is created.
    lock_timeout_s: wait for another SQLite writer; the whole process waits. interactive: for commands that
    only read: no statement timeout, and a missing SQLite file is not created but raises StoreUnavailable.
    """
    # Parameters hold customers' bodies: keep them out of every error message.
    options: dict[str, Any] = {"hide_parameters": True}
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            if interactive and not Path(parsed.database).exists():
                hint = "check DATABASE_URL, or create it with: rapidbridge migrate"
                raise StoreUnavailable(f"the database file {parsed.database} does not exist: {hint}")
            # The file holds customers' data: no access for other users.
            Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": lock_timeout_s}, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine
    arguments = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "application_name": "rapidbridge",
        "options": f"-c statement_timeout={0 if interactive else _STATEMENT_TIMEOUT_MS} -c timezone=UTC"
        f" -c idle_in_transaction_session_timeout={_IDLE_IN_TRANSACTION_MS}"
        # Starting a parallel worker takes longer than our statements.
        f" -c random_page_cost={_RANDOM_PAGE_COST} -c max_parallel_workers_per_gather=0",
        "keepalives_idle": 10,
        "tcp_user_timeout": 10_000,
    }
    engine = create_engine(
        parsed,
        pool_size=2,
        max_overflow=4,
        pool_timeout=_CONNECT_TIMEOUT_S,
        connect_args=arguments,
        **options,
    )
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def parse_url(url: str) -> URL:
    """Return a database URL, parsed, with its driver; raises ConfigError if it is malformed."""
    # Platforms still set postgres://, which SQLAlchemy does not know.
    return _make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))


def redact_url(url: str) -> str:
    """Return a database URL without its passwords; raises ConfigError if it is malformed."""
    parsed = _make_url(url)
    # The driver also accepts passwords as query parameters.
    hidden = [name for name in parsed.query if "password" in name.lower()]
    return parsed.difference_update_query(hidden).render_as_string(hide_password=True)


def _make_url(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        problem = "a database URL is malformed: percent-encode special characters in its password."
        # SQLAlchemy's error may quote the password, so it is not chained.
        raise ConfigError([problem]) from None


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver's own BEGIN is deferred and can deadlock on upgrade: a listener begins transactions.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _prepare_postgresql(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # A 200 may only follow a commit that is on disk. A stricter setting than "on" stays.
    cursor = connection.cursor()
    cursor.execute(
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    )
    cursor.close()
    connection.commit()


def _use_wal(cursor: DBAPICursor) -> None:
    # The first connection to a new file switches it permanently. SQLite's lock timeout does not apply here.
    for _ in range(_SQLITE_BUSY_TIMEOUT_S * 10):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY":
                raise
            time.sleep(0.1)


@contextmanager
def autocommit(engine: Engine) -> Iterator[Connection]:
    """Connect for a single statement that commits by itself.

    PostgreSQL: saves the round trips of BEGIN and COMMIT. SQLite has no round trips.
    """
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection
    else:
        with engine.begin() as connection:
            yield connection


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise StoreUnavailable for errors of the database or its driver."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailable("no connection to the database became free in time") from error
    except DBAPIError as error:
        raise StoreUnavailable(_explain(error)) from error
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database failed: {type(error).__name__}") from error


def _explain(error: DBAPIError) -> str:
    """Return the error's type and code, without its message, which may quote a row."""
    fault = type(error.orig).__name__
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    # A table or a column is missing.
    unmigrated = state in ("42P01", "42703") or "no such " in str(error.orig)
    hint = (
        "tables are missing or outdated; run: rapidbridge migrate"
        if unmigrated
        else "check DATABASE_URL, and that the database is up"
    )
    return f"the database failed ({fault}{f', {state}' if state else ''}): {hint}"


class Database:
    """A pool of connections to the store's database. Every method raises StoreUnavailable.

    engine: SQLAlchemy's, for callers that need the driver's own errors.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def dialect(self) -> Dialect:
        """SQLAlchemy's dialect; its name is "postgresql" or "sqlite"."""
        return self.engine.dialect

    def read(self, statement: Executable, parameters: Any = None) -> Sequence[Any]:
        """Return all rows of a single statement."""
        with self.autocommit() as connection:
            return connection.execute(statement, parameters).all()

    def execute(self, statement: Executable, parameters: Any = None) -> int:
        """Execute a single statement; return the number of rows that it changed."""
        with self.autocommit() as connection:
            return connection.execute(statement, parameters).rowcount

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Connect for a single statement that commits by itself."""
        with translate_errors(), autocommit(self.engine) as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Connect for one transaction: committed at the end, rolled back by an exception."""
        with translate_errors(), self.engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close the idle connections."""
        self.engine.dispose()


def open_database(
    url: str, *, lock_timeout_s: float = _SQLITE_BUSY_TIMEOUT_S, interactive: bool = False
) -> Database:
    """Prepare a database as `open_engine` does."""
    return Database(open_engine(url, lock_timeout_s=lock_timeout_s, interactive=interactive))
