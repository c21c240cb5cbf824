"""Settings of PostgreSQL sessions, for a session or for a transaction.

Without them, those of the role, the database and the server apply. A session of our own gets them once,
when it connects. Behind a pooler such as PgBouncer, every transaction may run in another session, which
other clients use too: there, each transaction sets them for itself.
"""

import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg import IsolationLevel
from psycopg.pq import Conninfo
from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from app.database.diagnosis import is_stale_session

# Truto drops a page within seconds: a dead database must be detected before that.
CONNECT_TIMEOUT_S = 5
_STATEMENT_TIMEOUT_MS = 15_000
# A process that stalls inside a transaction must not hold its locks forever.
_IDLE_IN_TRANSACTION_MS = 10_000
# A setting in `options` of libpq: -c name=value, or --name=value.
_OPTION_NAME = re.compile(r"(?:-c\s*|--)([\w.-]+)=")
# Of a connection behind a pooler: the statement that starts its transactions, and its parameters.
_TRANSACTION_START = "transaction_start"

# The code depends on these values: those of the URL and of PGOPTIONS do not count.
_PINNED = {
    "datestyle": "ISO, MDY",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "default_transaction_isolation": "read committed",
}
# The URL's `options` and PGOPTIONS win over these.
_TUNED = {
    "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_MS),
    "lock_timeout": "0",
    # Starting a parallel worker takes longer than our statements.
    "max_parallel_workers_per_gather": "0",
    # The default suits spinning disks: PostgreSQL would read a whole table instead of the index on a run.
    "random_page_cost": "1.1",
}
# Settings that older servers do not know, and their first version.
_NEWER = {"idle_session_timeout": 140_000, "transaction_timeout": 170_000}


def connection_arguments(url_parameters: Mapping[str, object]) -> dict[str, Any]:
    """Return libpq's arguments that neither the URL nor the environment sets.

    url_parameters: the query of the URL.
    """
    # Resolved by libpq from PGCONNECT_TIMEOUT and its like, and from PGSERVICE.
    environment = {option.keyword.decode(): option.val for option in Conninfo.get_defaults()}
    defaults = {"connect_timeout": CONNECT_TIMEOUT_S, "keepalives_idle": 10, "tcp_user_timeout": 10_000}
    return {
        # Without this, a role or a database with another encoding could not read every character.
        "client_encoding": "utf8",
        "fallback_application_name": "rapidbridge",
        **{
            name: value
            for name, value in defaults.items()
            if name not in url_parameters and environment.get(name) is None
        },
    }


def prepare_sessions(engine: Engine, *, schema: str, has_statement_timeout: bool) -> None:
    """Set the settings of all sessions of an engine, and replace sessions that a failover made stale.

    schema: of all tables; "" for the first one of the search_path.
    """
    timeout_ms = _STATEMENT_TIMEOUT_MS if has_statement_timeout else 0
    sessions = _Sessions({**_TUNED, "statement_timeout": str(timeout_ms)}, f'"{schema}"' if schema else None)
    event.listen(engine, "do_connect", _connect)
    # First of all listeners: SQLAlchemy reads settings of its first session.
    event.listen(engine, "connect", sessions.prepare, insert=True)
    event.listen(engine, "begin", _start_transaction)
    event.listen(engine, "handle_error", _discard_stale_session)


def is_pooled(connection: Connection | PoolProxiedConnection) -> bool:
    """Whether a pooler such as PgBouncer stands between a connection and its server."""
    return _TRANSACTION_START in connection.info


def _connect(
    dialect: Dialect, _record: ConnectionPoolEntry, arguments: Sequence[Any], options: Mapping[str, Any]
) -> DBAPIConnection:
    try:
        return dialect.connect(*arguments, **options)
    except BaseException as error:
        # Cut off by a timeout: the cycles of its traceback would keep the socket until garbage collection,
        # and the server its session.
        traceback.clear_frames(error.__traceback__)
        raise


class _Sessions:
    """Sets the settings of sessions. search_path: None leaves it unchanged."""

    def __init__(self, tuned: Mapping[str, str], search_path: str | None) -> None:
        self._tuned = tuned
        self._search_path = search_path

    def prepare(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        """Set the settings of a new connection. connection: psycopg's."""
        settings = self._choose_settings(connection.info.options, connection.info.server_version)
        # A pooler hands out a process id of its own. One statement decides and sets, so that no session of a
        # pooler keeps the settings.
        is_local = "pg_backend_pid() <> %(pid)s"
        statement = f"SELECT {is_local}, {_build_calls(settings, is_local=is_local)}"
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, {"pid": connection.info.backend_pid, **settings})
                is_behind_pooler = cursor.fetchone()[0]
            connection.autocommit = False
        except BaseException:
            # SQLAlchemy does not close a connection whose listener fails.
            connection.close()
            raise
        if is_behind_pooler:
            # The next transaction may run in a session that lacks the prepared statement.
            connection.prepare_threshold = None
            connection.isolation_level = IsolationLevel.READ_COMMITTED
            entry.info[_TRANSACTION_START] = (f"SELECT {_build_calls(settings, is_local='true')}", settings)

    def _choose_settings(self, options: str, server_version: int) -> dict[str, str]:
        in_options = {name.lower().replace("-", "_") for name in _OPTION_NAME.findall(options)}
        newer = {name: "0" for name, since in _NEWER.items() if server_version >= since}
        tuned = {name: value for name, value in {**self._tuned, **newer}.items() if name not in in_options}
        search_path = {} if self._search_path is None else {"search_path": self._search_path}
        return {**tuned, **_PINNED, **search_path}


def _build_calls(names: Iterable[str], *, is_local: str) -> str:
    calls = [f"set_config('{name}', %({name})s, {is_local})" for name in names]
    # A 200 may only follow a commit that is on disk. A stricter setting than "on" stays.
    current = "current_setting('synchronous_commit')"
    commit = f"CASE {current} WHEN 'off' THEN 'on' ELSE {current} END"
    return ", ".join([*calls, f"set_config('synchronous_commit', {commit}, {is_local})"])


def _start_transaction(connection: Connection) -> None:
    if is_pooled(connection):
        statement, settings = connection.info[_TRANSACTION_START]
        connection.exec_driver_sql(statement, settings)


def _discard_stale_session(context: ExceptionContext) -> None:
    # SQLAlchemy then discards all idle connections of the pool as well.
    if context.connection is not None and is_stale_session(context.original_exception):
        context.is_disconnect = True
