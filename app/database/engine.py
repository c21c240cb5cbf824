"""Opens the store's database and turns its driver's faults into ours."""

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

# Truto gives up on a page within seconds: a dead database must be known before that.
_CONNECT_TIMEOUT_S = 5
_STATEMENT_TIMEOUT_MS = 15_000
_SQLITE_BUSY_TIMEOUT_S = 15
# The default is a spinning disk's: PostgreSQL would rather read a whole table than look up a run's rows.
_RANDOM_PAGE_COST = 1.1
# A process that stands still inside a transaction must not keep its locks from all others.
_IDLE_IN_TRANSACTION_MS = 10_000


def open_engine(
    url: str, *, lock_timeout_s: float = _SQLITE_BUSY_TIMEOUT_S, interactive: bool = False
) -> Engine:
    """Prepare a connection pool; connects on first use.

    url: sqlite:///path, postgres://… or postgresql://…. A SQLite file's folder is created.
    lock_wait_s: how long SQLite waits for another writer, and its whole process with it. for_person: one who
    looks at what is there: statements take as long as they take, and a SQLite file that is missing is not
    made, but StoreUnavailable.
    """
    # Parameters hold customers' bodies: keep them out of every error message.
    options: dict[str, Any] = {"hide_parameters": True}
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            if interactive and not Path(parsed.database).exists():
                hint = "is DATABASE_URL right? `rapidbridge migrate` makes it"
                raise StoreUnavailable(f"there is no file {parsed.database}: {hint}")
            # It holds customers' data: nobody else's business.
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
        # Starting another process for a part of them takes longer than our statements take.
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
    """Return a database's URL, taken apart, as it is connected to; raises ConfigError where it is none."""
    # Platforms still write postgres://, which names no driver.
    return _make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))


def redact_url(url: str) -> str:
    """Return a database's URL without its passwords; raises ConfigError where it is none."""
    parsed = _make_url(url)
    # The driver takes them there as well.
    hidden = [name for name in parsed.query if "password" in name.lower()]
    return parsed.difference_update_query(hidden).render_as_string(hide_password=True)


def _make_url(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        problem = "a database's URL cannot be read: write %-escapes for what is special in its password."
        # Not from the error, which quotes what may be the password.
        raise ConfigError([problem]) from None


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver's own BEGIN is deferred and can deadlock on upgrade: transactions are begun by the listener.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _prepare_postgresql(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # A commit that is not on disk yet must not be answered 200. Whatever is stricter than "on" stays.
    cursor = connection.cursor()
    cursor.execute(
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    )
    cursor.close()
    connection.commit()


def _use_wal(cursor: DBAPICursor) -> None:
    # The first to open a new file switches it, for good; SQLite does not wait for a lock here by itself.
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
    """Connect for a single statement, which is a transaction of its own.

    On PostgreSQL that saves the round trips of BEGIN and COMMIT. On SQLite they cost nothing.
    """
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection
    else:
        with engine.begin() as connection:
            yield connection


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise StoreUnavailable for whatever the database or its driver raises."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailable("no connection to the store became free in time") from error
    except DBAPIError as error:
        raise StoreUnavailable(_explain(error)) from error
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the store failed: {type(error).__name__}") from error


def _explain(error: DBAPIError) -> str:
    """Say what the database said without its details, which may quote a row."""
    fault = type(error.orig).__name__
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    # A table or a column that is not there.
    unmigrated = state in ("42P01", "42703") or "no such " in str(error.orig)
    hint = (
        "its tables are missing or old; run: rapidbridge migrate"
        if unmigrated
        else "is DATABASE_URL right and up?"
    )
    return f"the store failed ({fault}{f', {state}' if state else ''}): {hint}"


class Database:
    """A pool of connections to the store's database. Every method raises StoreUnavailable.

    engine: for callers that need the driver's own errors.
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
        """Connect for a single statement, which is a transaction of its own."""
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
