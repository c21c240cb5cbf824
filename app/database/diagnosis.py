"""Diagnosis of database errors: the problem and the next step.

Every process says the same words. SQLSTATE decides if there is one. The driver reports none for a failed
connection attempt: for these, the English texts of libpq and of the server decide. No diagnosis quotes a
message, which may contain a row.
"""

import re
import sqlite3
from dataclasses import dataclass
from typing import TypeGuard

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.database.mysql_diagnosis import find_mysql_cause

_GRANT = (
    "GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role};"
)
_MIGRATE = "run: rapidbridge migrate"
_WAIT = "wait until it has started, or start it"
_FREE_CONNECTIONS = (
    "raise the limit, close other connections, or lower WEB_CONCURRENCY and WORKER_CONCURRENCY"
)
_POOLER = "a connection pooler mixes up prepared statements or refuses a message"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The cause of a database error. code: as in `read_error_code`."""

    problem: str
    advice: str
    code: str = ""

    def __str__(self) -> str:
        return f"{self.problem}{f' ({self.code})' if self.code else ''}; {self.advice}"


# By SQLSTATE, or by its class of two characters. The longer one wins.
_BY_STATE = {
    "08": ("the connection broke", "check that the server is up, and the network between both"),
    "08P01": (
        _POOLER,
        "remove `options` from the URL and from PGOPTIONS, and use transaction or session pooling",
    ),
    "22021": ("the database cannot store a character", "use a database with the encoding UTF8"),
    "22P05": ("the database cannot store a character", "use a database with the encoding UTF8"),
    "25006": (
        "the server accepts no writes: it is read-only, or a standby",
        "point the URL to the primary server, or make the server writable",
    ),
    "26000": (_POOLER, "it is tried again with another connection"),
    "28": ("the server refuses the login", "check the user and the password in the URL, and pg_hba.conf"),
    "28P01": ("wrong password, or no such role", "correct the user and the password in the URL"),
    "3D000": ("no such database", "create it, or correct the name in the URL: createdb {database}"),
    "3F000": ("no such schema", "set DATABASE_SCHEMA, or correct the search_path, and " + _MIGRATE),
    "40": ("the server rolled back a transaction that collided with another", "it is tried again"),
    "42501": ("the role lacks a right", "run as the owner: " + _GRANT),
    "42703": ("tables are missing or outdated", _MIGRATE),
    "42P01": ("tables are missing or outdated", _MIGRATE),
    "42P05": (_POOLER, "it is tried again with another connection"),
    "53": ("the server lacks resources", "read the server's log"),
    "53100": ("the server's disk is full", "free space on it"),
    "53200": ("the server's memory is exhausted", "give it more memory"),
    "53300": ("no connection is free", _FREE_CONNECTIONS),
    "55P03": ("a lock was not free in time", "end the session that holds it; see pg_stat_activity"),
    "57": ("the server ended the session", "it is tried again"),
    "57014": (
        "a statement exceeded its timeout",
        "check the server's load, and the locks in pg_stat_activity",
    ),
    "57P01": ("the server is shutting down or restarting", _WAIT),
    "57P02": ("the server is shutting down or restarting", _WAIT),
    "57P03": ("the server is starting up or shutting down", _WAIT),
    "58": ("the server's disk or system fails", "read the server's log"),
    "XX": ("the server reports an internal error", "read the server's log"),
    "SQLITE_BUSY": ("another process has locked the file", "end that process, or wait"),
    "SQLITE_CANTOPEN": ("the file cannot be opened", "check the path in the URL and its permissions"),
    "SQLITE_CORRUPT": ("the file is damaged", "restore it from a backup"),
    "SQLITE_FULL": ("the disk is full", "free space on it"),
    "SQLITE_IOERR": ("the disk fails", "check the disk of the file"),
    "SQLITE_LOCKED": ("another process has locked the file", "end that process, or wait"),
    "SQLITE_NOTADB": ("the file is not a SQLite database", "correct the path in the URL"),
    "SQLITE_PERM": ("the file cannot be opened", "check the path in the URL and its permissions"),
    "SQLITE_READONLY": ("the file is read-only", "make the file and its folder writable"),
}
# Failed connection attempts, by texts of libpq and of servers, without names in quotes. The first match wins.
_BY_TEXT = (
    (r"no password supplied", "the URL has no password, and the server requires one", "add it to the URL"),
    (
        r"password authentication failed|sasl authentication failed|wrong password|auth failed",
        *_BY_STATE["28P01"],
    ),
    (
        r"is not permitted to log in",
        "the role may not log in",
        "run as a superuser: ALTER ROLE {role} LOGIN;",
    ),
    (
        r"role \"\" does not exist|no such user",
        "no such role",
        "create it, or correct the user in the URL: createuser --login --pwprompt {role}",
    ),
    (r"database \"\" does not exist|no such database", *_BY_STATE["3D000"]),
    (
        r"permission denied for database|connect privilege",
        "the role may not connect to the database",
        "run as the owner: GRANT CONNECT ON DATABASE {database} TO {role};",
    ),
    (
        r"too many connections|too many clients|remaining connection slots|no more connections allowed"
        r"|max_client_conn|query_wait_timeout|max clients",
        *_BY_STATE["53300"],
    ),
    (
        r"not currently accepting connections",
        "the database accepts no connections",
        "run as a superuser: ALTER DATABASE {database} ALLOW_CONNECTIONS true;",
    ),
    (
        r"shutting down|starting up|recovery mode|not yet accepting connections|not accepting connections"
        r"|terminating connection",
        *_BY_STATE["57P03"],
    ),
    (
        r"unsupported startup parameter",
        "the connection pooler refuses a parameter that a session starts with",
        "remove `options` from the URL and unset PGOPTIONS; for another search_path set DATABASE_SCHEMA, or "
        "`schema` of the sink",
    ),
    (
        r"statement pooling",
        "the connection pooler pools statements, and the receiver needs transactions",
        "set pool_mode = transaction in the pooler's configuration",
    ),
    (
        r"pgbouncer cannot connect|server_login_retry|server login (has )?fail",
        "the connection pooler cannot reach its server",
        "read the pooler's log, and check the server in its configuration",
    ),
    (
        r"server does not support ssl",
        "the URL requires TLS, and the server does not support it",
        "configure TLS on the server, or set sslmode=prefer in the URL",
    ),
    (
        r"no pg_hba.conf entry.*(ssl off|no encryption)|ssl (connection )?(is )?required|ssl required"
        r"|sslmode=require|requires ssl",
        "the server requires TLS, or pg_hba.conf does not admit this machine",
        "set sslmode=require in the URL, or add this machine to pg_hba.conf",
    ),
    (
        r"pg_hba\.conf",
        "pg_hba.conf does not admit this machine, role or database",
        "add an entry to the server's pg_hba.conf, and reload it",
    ),
    (
        r"could not read root certificate|root certificate file",
        "the file with the authority of the server's TLS certificate is missing, or contains none",
        "correct sslrootcert in the URL; of a public authority: "
        "sslrootcert=/etc/ssl/certs/ca-certificates.crt",
    ),
    (
        r"certificate.* does not match host name",
        "the server's TLS certificate is for another host",
        "write the host in the URL as the certificate names it",
    ),
    (
        r"certificate verify failed|self.signed",
        "the server's TLS certificate cannot be verified",
        "name the file of its authority in the URL: sslmode=verify-full&sslrootcert=FILE",
    ),
    (
        r"channel binding",
        "the URL requires channel binding, and the server or its pooler does not offer it",
        "remove channel_binding=require from the URL, and keep sslmode=require or verify-full",
    ),
    (
        r"(peer|ident|certificate|gssapi|ldap|pam|radius) authentication failed",
        "the server refuses the login",
        "check the user in the URL, and the method in pg_hba.conf",
    ),
    (
        r"session is (not )?read-only|server is (not )?in hot standby",
        "no server of the URL is of the kind that target_session_attrs requires",
        "add the primary server to the hosts of the URL",
    ),
    (
        r"resolve host|translate host|name or service not known|name resolution|nodename nor servname",
        "no such host",
        "correct the host in the URL",
    ),
    (
        r"invalid response to ssl negotiation|expected authentication request|unexpected message",
        "the server is no PostgreSQL",
        "correct the host and the port in the URL",
    ),
    (
        r"ssl error|ssl syscall|tls",
        "the TLS handshake failed",
        "check sslmode and the certificates in the URL",
    ),
    (
        r"refused|no such file or directory",
        "no server listens there",
        "start it, or correct the host and the port in the URL",
    ),
    (
        r"timeout expired|timed out|no route to host|network is unreachable|host is (down|unreachable)",
        "no answer in time",
        "check the host and the port in the URL, and the firewall between both",
    ),
    (
        r"permission denied",
        "this process may not use the server's socket",
        "correct the permissions of its folder",
    ),
    (
        r"server closed the connection|connection (is|was) (lost|closed|bad)|consuming input failed"
        r"|reset by peer|broken pipe|connection (has been )?closed",
        *_BY_STATE["08"],
    ),
    (
        r"invalid .*(option|uri|port|integer|value|mode)",
        "the URL is invalid",
        "correct it",
    ),
)
_UNKNOWN = ("the connection failed", "read the server's words with: psql \"$DATABASE_URL\" -c 'SELECT 1'")


def diagnose(
    error: BaseException | None, *, role: str = "", database: str = "", schema: str = ""
) -> Diagnosis:
    """Return the problem behind an error of SQLAlchemy or a driver, and the next step.

    role, database, schema: names for the commands in the advice.
    """
    fault = error.orig if isinstance(error, DBAPIError) else error
    code = read_error_code(fault)
    problem, advice = _find_cause(fault, code)
    names = {
        "role": _quote_name(role, "the_role"),
        "database": _quote_name(database, "the_database"),
        "schema": _quote_name(schema, "public"),
    }
    return Diagnosis(problem, re.sub(r"\{(\w+)\}", lambda match: names[match[1]], advice), code)


def read_error_code(error: BaseException | None) -> str:
    """Return the code of an error of SQLAlchemy or a driver; "" if it has none.

    The code is the SQLSTATE, SQLite's name, or the number of MySQL, whose SQLSTATE is less precise.
    """
    fault = error.orig if isinstance(error, DBAPIError) else error
    if is_mysql_error(fault):
        return str(fault.args[0]) if fault.args else ""
    return getattr(fault, "sqlstate", None) or getattr(fault, "sqlite_errorname", None) or ""


def is_mysql_error(error: BaseException | None) -> TypeGuard[BaseException]:
    """Whether the driver of MySQL raised an error; only sinks load the driver."""
    return type(error).__module__.startswith("pymysql.")


def is_stale_session(error: BaseException | None) -> bool:
    """Whether a session of PostgreSQL fails in the same way until it is replaced by a new one.

    So after a failover (25006), after prepared statements were mixed up by a pooler, and after a table was
    changed under a prepared statement.
    """
    return read_error_code(error) in ("25006", "26000", "42P05", "08P01", "57P01", "57P02", "57P03") or (
        # Not recognized by its message, which the server translates.
        getattr(getattr(error, "diag", None), "source_function", None) == "RevalidateCachedQuery"
    )


def _find_cause(fault: BaseException | None, code: str) -> tuple[str, str]:
    if isinstance(fault, PoolTimeout):
        return "no connection became free in time", _FREE_CONNECTIONS
    if isinstance(fault, sqlite3.Error):
        return _find_sqlite_cause(fault, code)
    if is_mysql_error(fault):
        return find_mysql_cause(fault)
    # PgBouncer reports all of its errors with this code.
    if code and code != "08P01":
        cause = _BY_STATE.get(code) or _BY_STATE.get(code[:2])
        return cause or (f"the server reports {type(fault).__name__}", "read the server's log")
    if not any(base.__name__ == "OperationalError" for base in type(fault).__mro__):
        return f"the driver failed with {type(fault).__name__}", "read the receiver's log"
    text = re.sub(r'"[^"]*"', '""', str(fault)).lower()
    causes = ((problem, advice) for mark, problem, advice in _BY_TEXT if re.search(mark, text))
    return next(causes, _BY_STATE.get(code, _UNKNOWN))


def _find_sqlite_cause(fault: sqlite3.Error, code: str) -> tuple[str, str]:
    if "no such table" in str(fault) or "no such column" in str(fault):
        return _BY_STATE["42P01"]
    # A name may be an extended one, such as SQLITE_READONLY_DIRECTORY.
    name = next((name for name in _BY_STATE if code.startswith(name)), None)
    return _BY_STATE[name] if name else (f"SQLite failed with {type(fault).__name__}", "check the file")


def _quote_name(name: str, default: str) -> str:
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        return name
    return '"' + name.replace('"', '""') + '"' if name else default
