"""Connections and session settings of MySQL and MariaDB, which only sinks use."""

import ssl
from collections.abc import Mapping
from typing import Any

import pymysql
from pymysql.constants import SERVER_STATUS
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry

from app.database.diagnosis import read_error_code

# In the `info` of a connection: the largest statement that its server reads.
MAX_PACKET_BYTES = "max_packet_bytes"
# Below the time limit of a worker's job.
_TIMEOUTS_S = {"connect_timeout": 5, "read_timeout": 20, "write_timeout": 20}
_STATEMENT_TIMEOUT_S = 15
# Of an index on a large table.
_LONG_STATEMENT_S = 3600
# A lock of a row, and a lock of a table's definition: the server's default for the second is a day or more.
_LOCK_TIMEOUT_S = 10
# Without a strict mode, the server cuts values. ANSI_QUOTES: names are quoted as in other databases.
# NO_BACKSLASH_ESCAPES: the driver then only doubles quotes, in a fraction of the time.
_SQL_MODE = (
    "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,"
    "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
)
_SETTINGS = {
    "sql_mode": f"'{_SQL_MODE}'",
    "time_zone": "'+00:00'",
    "innodb_lock_wait_timeout": str(_LOCK_TIMEOUT_S),
    "lock_wait_timeout": str(_LOCK_TIMEOUT_S),
    # An idle connection of the pool must not be closed between two deliveries.
    "wait_timeout": "28800",
}
# The server became read-only, after a failover: the connection leads to the wrong server.
_STALE_SESSION_CODES = ("1290", "1792", "1836")


def mysql_arguments(parameters: Mapping[str, Any], *, has_statement_timeout: bool) -> dict[str, Any]:
    """Return the driver's arguments for the parameters of a URL, which check_database_url has accepted."""
    timeouts = {
        name: int(parameters.get(name, default_s)) or default_s for name, default_s in _TIMEOUTS_S.items()
    }
    if not has_statement_timeout:
        timeouts["read_timeout"] = _LONG_STATEMENT_S
    socket = {name: parameters[name] for name in ("unix_socket",) if name in parameters}
    # The driver's default is TLS if the server supports it.
    is_plain = {"ssl_disabled": True} if _read_tls_mode(parameters) == "DISABLED" else {}
    context = _build_tls_context(parameters)
    return {"charset": "utf8mb4", **timeouts, **socket, **is_plain, **({"ssl": context} if context else {})}


def _read_tls_mode(parameters: Mapping[str, Any]) -> str:
    is_verified = "ssl_ca" in parameters
    default = "VERIFY_CA" if is_verified else "REQUIRED" if "ssl_cert" in parameters else "PREFERRED"
    return str(parameters.get("ssl_mode", default)).upper()


def _build_tls_context(parameters: Mapping[str, Any]) -> ssl.SSLContext | None:
    mode = _read_tls_mode(parameters)
    if mode in ("DISABLED", "PREFERRED"):
        return None
    context = ssl.create_default_context(cafile=parameters.get("ssl_ca"))
    # Certificates that a MySQL server makes for itself do not pass the strict check.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == "VERIFY_IDENTITY"
    if mode == "REQUIRED":
        context.verify_mode = ssl.CERT_NONE
    if "ssl_cert" in parameters:
        context.load_cert_chain(parameters["ssl_cert"], parameters.get("ssl_key"))
    return context


def prepare_mysql_sessions(engine: Engine, *, has_statement_timeout: bool) -> None:
    """Set the settings of all sessions of an engine, and replace sessions that a failover made stale."""
    limit_s = _STATEMENT_TIMEOUT_S if has_statement_timeout else 0

    def prepare(connection: Any, entry: ConnectionPoolEntry) -> None:
        try:
            with connection.cursor() as cursor:
                is_mariadb = "MariaDB" in connection.get_server_info()
                # MySQL has no time limit for statements that write: the driver's own applies.
                limit = {"max_statement_time": str(limit_s)} if is_mariadb else {}
                settings = ", ".join(f"{name} = {value}" for name, value in {**_SETTINGS, **limit}.items())
                cursor.execute(f"SET SESSION {settings}")
                _check_escapes(connection)
                # No locks of the gaps between rows: hardly a deadlock is left.
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                cursor.execute("SELECT @@max_allowed_packet")
                entry.info[MAX_PACKET_BYTES] = cursor.fetchone()[0]
            connection.commit()
        except BaseException:
            # SQLAlchemy does not close a connection whose listener fails.
            connection.close()
            raise

    # First of all listeners: SQLAlchemy reads settings of its first session.
    event.listen(engine, "connect", prepare, insert=True)
    event.listen(engine, "handle_error", _discard_stale_session)


def _check_escapes(connection: Any) -> None:
    # The driver escapes by the mode that the server reports: otherwise a quote in a value would end it.
    if not connection.server_status & SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES:
        raise pymysql.NotSupportedError(0, "a proxy hides the sql_mode NO_BACKSLASH_ESCAPES")


def _discard_stale_session(context: ExceptionContext) -> None:
    fault = context.original_exception
    if isinstance(fault, pymysql.MySQLError) and read_error_code(fault) in _STALE_SESSION_CODES:
        context.is_disconnect = context.connection is not None
