"""The store's database: connections, transactions, and StoreUnavailable for driver errors."""

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Engine,
    Executable,
    SelectBase,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from app.database.diagnosis import Diagnosis, diagnose
from app.encryption import Keyring
from app.errors import ConfigError, SinkRefused, StoreUnavailable

# Truto drops a page within seconds: an exhausted pool must be detected before that.
_POOL_TIMEOUT_S = 5
_MAX_CONNECTIONS, _MAX_IDLE_CONNECTIONS = 6, 2
_SQLITE_BUSY_TIMEOUT_S = 15
_FIRST_LOCK_WAIT_S, _MAX_LOCK_WAIT_S = 0.001, 0.05
# The execution option of a transaction that only reads.
_READ_ONLY = "rapidbridge_read_only"
# A PostgreSQL URL with several hosts, separated by commas.
_HOST_LIST = re.compile(
    r"^(?P<login>postgres(?:ql)?(?:\+psycopg)?://(?:[^@/]*@)?)(?P<hosts>[^@/?,]+(?:,[^@/?,]+)+)"
    r"(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?$"
)


def open_engine(
    url: str,
    *,
    schema: str = "",
    lock_timeout_s: float = _SQLITE_BUSY_TIMEOUT_S,
    interactive: bool = False,
    max_connections: int = _MAX_CONNECTIONS,
) -> Engine:
    """Prepare a connection pool; connects on first use.

    url: sqlite:///path, postgres://…, postgresql://…, and of sinks mysql://… or mariadb://…. The folder of a
    SQLite file is created.
    schema: of all tables in PostgreSQL; "" for the first one of the search_path.
    lock_timeout_s: wait of a writing transaction for another SQLite writer. interactive: for commands that
    only read: no statement timeout, and a missing SQLite file is not created but raises StoreUnavailable.
    max_connections: of the pool, in PostgreSQL.
    Raises OSError if the folder cannot be created, SinkRefused if the driver of MySQL is missing.
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
        arguments = {} if "timeout" in parsed.query else {"timeout": lock_timeout_s}
        engine = create_engine(parsed, connect_args=arguments, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() == "mysql":
        return _open_mysql(parsed, has_statement_timeout=not interactive, **options)
    # Imported here: an installation on SQLite never loads psycopg, which costs 40 ms.
    from app.database.session_settings import connection_arguments, prepare_sessions  # noqa: PLC0415

    idle_connections = min(_MAX_IDLE_CONNECTIONS, max_connections)
    engine = create_engine(
        parsed,
        pool_size=idle_connections,
        max_overflow=max_connections - idle_connections,
        pool_timeout=_POOL_TIMEOUT_S,
        connect_args=connection_arguments(parsed.query),
        use_native_hstore=False,
        **options,
    )
    prepare_sessions(engine, schema=schema, has_statement_timeout=not interactive)
    return engine


def _open_mysql(url: URL, *, has_statement_timeout: bool, **options: Any) -> Engine:
    try:
        from app.database.mysql_sessions import mysql_arguments, prepare_mysql_sessions  # noqa: PLC0415
    except ModuleNotFoundError as error:
        problem = "the driver of MySQL is not installed; in the checkout, run: pip install -e '.[mysql]'"
        raise SinkRefused("sink_set_up", problem) from error
    engine = create_engine(
        url.set(query={}),
        pool_size=_MAX_IDLE_CONNECTIONS,
        max_overflow=_MAX_CONNECTIONS - _MAX_IDLE_CONNECTIONS,
        pool_timeout=_POOL_TIMEOUT_S,
        connect_args=mysql_arguments(url.query, has_statement_timeout=has_statement_timeout),
        **options,
    )
    prepare_mysql_sessions(engine, has_statement_timeout=has_statement_timeout)
    return engine


def describe_folder_error(error: OSError) -> str:
    """Return a message for a folder of a SQLite file that cannot be created."""
    reason = error.strerror or type(error).__name__
    return f"the folder of the database file cannot be created ({reason}); correct the path in its URL"


def parse_url(url: str) -> URL:
    """Return a database URL, parsed, with its driver; raises ConfigError if it is malformed."""
    # Platforms still set postgres://, which SQLAlchemy does not know.
    url = re.sub(r"^(mysql|mariadb)://", "mysql+pymysql://", url)
    return _make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))


def _move_hosts_to_query(match: re.Match[str]) -> str:
    # SQLAlchemy knows several hosts only as parameters.
    pairs = [re.fullmatch(r"\[?(.*?)\]?(?::(\d+))?", place) for place in match["hosts"].split(",")]
    hosts = ",".join(pair[1] for pair in pairs if pair)
    ports = ",".join(pair[2] or "5432" for pair in pairs if pair)
    query = "&".join(filter(None, (f"host={hosts}&port={ports}", match["query"])))
    return f"{match['login']}/{match['database'] or ''}?{query}"


def redact_url(url: str) -> str:
    """Return a database URL without its passwords; raises ConfigError if it is malformed."""
    parsed = _make_url(url)
    # The driver also accepts passwords and keys as query parameters. The value of sslkey is a path.
    hidden = [name for name in parsed.query if re.search("password|secret|scram", name, re.I)]
    return parsed.difference_update_query(hidden).render_as_string(hide_password=True)


def _make_url(url: str) -> URL:
    try:
        return make_url(_HOST_LIST.sub(_move_hosts_to_query, url))
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


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get(_READ_ONLY):
        # Reads the last commit, without a lock. It cannot become a writer: SQLite refuses that at once.
        connection.exec_driver_sql("BEGIN")
        return
    driver = connection.connection.cursor()
    driver.execute("PRAGMA busy_timeout")
    [(timeout_ms,)] = driver.fetchall()
    give_up_at_s = time.monotonic() + timeout_ms / 1000
    wait_s = _FIRST_LOCK_WAIT_S
    # SQLite's own wait for a lock blocks the whole process, under gevent all requests.
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        while time.monotonic() < give_up_at_s:
            try:
                driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    break
            time.sleep(wait_s)
            wait_s = min(wait_s * 2, _MAX_LOCK_WAIT_S)
        # The last attempt: its error is SQLAlchemy's.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        driver.execute(f"PRAGMA busy_timeout = {timeout_ms}")
        driver.close()


@contextmanager
def autocommit(engine: Engine) -> Iterator[Connection]:
    """Connect for a single statement that commits by itself.

    PostgreSQL: saves the round trips of BEGIN and COMMIT, except behind a pooler. SQLite has no round trips.
    """
    if engine.dialect.name != "postgresql":
        with engine.begin() as connection:
            yield connection
        return
    from app.database.session_settings import is_pooled  # noqa: PLC0415  # loads psycopg; see open_engine

    with engine.connect() as connection:
        if is_pooled(connection):
            with connection.begin():
                yield connection
        else:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")


def close_connections(engine: Engine) -> None:
    """Close the idle connections of an engine now, and those in use once they are returned.

    SQLAlchemy leaves the latter open in a pool that nobody uses any more.
    """
    pool = engine.pool
    engine.dispose()
    event.listen(pool, "checkin", _close_returned)
    # Those that were returned meanwhile.
    pool.dispose()


def _close_returned(_connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
    entry.close()


@contextmanager
def translate_errors(engine: Engine, *, schema: str = "", setting: str = "DATABASE_URL") -> Iterator[None]:
    """Raise StoreUnavailable for errors of the database or its driver.

    schema: see open_engine. setting: the name of the setting with the URL.
    """
    try:
        yield
    except Exception as error:
        if not _is_database_error(error):
            raise
        raise StoreUnavailable(
            f"the database in {setting} failed: {diagnose_for(error, engine, schema=schema)}"
        ) from error


def diagnose_for(error: BaseException | None, engine: Engine, *, schema: str = "") -> Diagnosis:
    """Return the diagnosis of an error of an engine; see diagnose."""
    url = engine.url
    return diagnose(error, role=url.username or "", database=url.database or "", schema=schema)


def _is_database_error(error: Exception) -> bool:
    """Whether SQLAlchemy or a driver raised an error; drivers raise UnicodeError for some texts."""
    return isinstance(error, SQLAlchemyError | sqlite3.Error | UnicodeError) or (
        type(error).__module__.startswith("psycopg")
    )


class Database:
    """A pool of connections to the store's database. Every method raises StoreUnavailable.

    engine: SQLAlchemy's, for callers that need the driver's own errors. schema: see open_engine.
    setting: the name of the setting with its URL. keyring: for the values that are stored encrypted.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        schema: str = "",
        setting: str = "DATABASE_URL",
        keyring: Keyring | None = None,
    ) -> None:
        self.engine = engine
        self.keyring = keyring or Keyring()
        self.schema = schema
        self.setting = setting
        self._read_only_engine = engine.execution_options(**{_READ_ONLY: True})

    @property
    def dialect(self) -> Dialect:
        """SQLAlchemy's dialect; its name is "postgresql" or "sqlite"."""
        return self.engine.dialect

    def read(self, statement: Executable, parameters: Any = None) -> Sequence[Any]:
        """Return all rows of a single statement."""
        # Other statements change rows, and return them.
        only_reads = isinstance(statement, SelectBase)
        with self.read_transaction() if only_reads else self.autocommit() as connection:
            return connection.execute(statement, parameters).all()

    def execute(self, statement: Executable, parameters: Any = None) -> int:
        """Execute a single statement; return the number of rows that it changed."""
        with self.autocommit() as connection:
            return connection.execute(statement, parameters).rowcount

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Connect for a single statement that commits by itself."""
        with self.translate_errors(), autocommit(self.engine) as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Connect for one transaction: committed at the end, rolled back by an exception."""
        with self.translate_errors(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read_transaction(self) -> Iterator[Connection]:
        """Connect for statements that only read; several of them need not see the same moment in PostgreSQL.

        SQLite: waits for no writer.
        """
        if self.dialect.name == "postgresql":
            with self.autocommit() as connection:
                yield connection
            return
        with self.translate_errors(), self._read_only_engine.begin() as connection:
            yield connection

    def translate_errors(self) -> AbstractContextManager[None]:
        """Raise StoreUnavailable for errors of this database or its driver."""
        return translate_errors(self.engine, schema=self.schema, setting=self.setting)

    def close(self) -> None:
        """Close the idle connections, and those in use once they are returned."""
        close_connections(self.engine)


def open_database(
    url: str,
    *,
    schema: str = "",
    lock_timeout_s: float = _SQLITE_BUSY_TIMEOUT_S,
    interactive: bool = False,
    max_connections: int = _MAX_CONNECTIONS,
    setting: str = "DATABASE_URL",
    keyring: Keyring | None = None,
) -> Database:
    """Prepare a database as `open_engine` does; raises StoreUnavailable if its folder cannot be created.

    setting, keyring: see Database.
    """
    try:
        engine = open_engine(
            url,
            schema=schema,
            lock_timeout_s=lock_timeout_s,
            interactive=interactive,
            max_connections=max_connections,
        )
    except OSError as error:
        raise StoreUnavailable(describe_folder_error(error)) from error
    return Database(engine, schema=schema, setting=setting, keyring=keyring)
