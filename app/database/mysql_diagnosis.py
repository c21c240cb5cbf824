"""Causes of errors of MySQL and MariaDB, by the number of the error."""

_GRANT = "run as an administrator: GRANT ALL ON {database}.* TO {role};"
_RETRY = "it is tried again"
_BROKE = ("the connection broke", "check that the server is up, and the network between both")
_READ_ONLY = (
    "the server accepts no writes: it is read-only, or a replica",
    "point the URL to the primary server, or make the server writable",
)
_FULL = ("the server's disk is full", "free space on it")
_LOCKS = "end the session that holds it; see information_schema.processlist"
_LOGIN = ("wrong password, or no such user", "correct the user and the password in the URL")
_OUTDATED = ("a table or a column is missing", _RETRY)
_CONNECTIONS = (
    "no connection is free",
    "raise max_connections, close other connections, or lower WEB_CONCURRENCY and WORKER_CONCURRENCY",
)
_TLS = "check ssl_mode, ssl_ca, ssl_cert and ssl_key in the URL"
_NO_HOST = ("no such host", "correct the host in the URL")
_NO_ANSWER = (
    "no answer in time",
    "check the host and the port in the URL, and the firewall between both",
)
_KILLED = "check the server's load, and the locks in information_schema.processlist"

# Sources: https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
# and https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference
_CAUSES = {
    1021: _FULL,
    1040: _CONNECTIONS,
    1041: ("the server's memory is exhausted", "give it more memory"),
    1044: ("the user lacks a right", _GRANT),
    1045: _LOGIN,
    1049: ("no such database", "run as an administrator: CREATE DATABASE {database};"),
    1053: ("the server is shutting down or restarting", "wait until it has started, or start it"),
    1054: _OUTDATED,
    1114: _FULL,
    1129: (
        "the server blocks this machine after failed connections",
        "run as an administrator: FLUSH HOSTS;",
    ),
    1130: ("the server does not admit this machine", "create the user for this host, or for '%'"),
    1142: ("the user lacks a right", _GRANT),
    1143: ("the user lacks a right", _GRANT),
    1146: _OUTDATED,
    1153: (
        "a statement is larger than the server's max_allowed_packet",
        "raise max_allowed_packet of the server",
    ),
    1203: _CONNECTIONS,
    1205: ("a lock was not free in time", _LOCKS),
    1213: ("the server rolled back a transaction that collided with another", _RETRY),
    1226: ("the user has reached a limit of the server", "raise the limits of the user"),
    1227: ("the user lacks a right", _GRANT),
    1290: _READ_ONLY,
    1317: ("the server ended the statement", _RETRY),
    1665: (
        "binlog_format = STATEMENT does not permit READ COMMITTED",
        "run as an administrator: SET GLOBAL binlog_format = 'ROW';",
    ),
    1698: _LOGIN,
    1792: _READ_ONLY,
    1836: _READ_ONLY,
    1969: ("a statement exceeded its time limit", _KILLED),
    2006: _BROKE,
    2013: _BROKE,
    2026: ("the TLS handshake failed", _TLS),
    3024: ("a statement exceeded its time limit", _KILLED),
    3159: ("the server requires TLS", "set ssl_mode=REQUIRED in the URL"),
    4031: _BROKE,
}
# Failed connection attempts have the number 2003, and the reason in their text.
_BY_TEXT = (
    ("certificate verify failed", ("the server's TLS certificate cannot be verified", _TLS)),
    ("ssl", ("the TLS handshake failed", _TLS)),
    ("name or service not known", _NO_HOST),
    ("name resolution", _NO_HOST),
    ("nodename nor servname", _NO_HOST),
    (
        "timed out",
        ("no answer in time", "check the host and the port in the URL, and the firewall between both"),
    ),
    ("refused", ("no server listens there", "start it, or correct the host and the port in the URL")),
    (
        "no such file",
        ("no server listens there", "start it, or correct unix_socket in the URL"),
    ),
)


def find_mysql_cause(fault: BaseException) -> tuple[str, str]:
    """Return the problem behind an error of the driver, and the advice."""
    number = fault.args[0] if fault.args else 0
    if number in _CAUSES and number != 2013:
        return _CAUSES[number]
    text = str(fault).lower()
    causes = (cause for mark, cause in _BY_TEXT if mark in text)
    unknown = (f"the server reports {type(fault).__name__}", "read the server's log")
    return next(causes, _CAUSES.get(number, unknown))
