"""Checks of a database URL, which no message quotes, and of a schema's name."""

import difflib
import re
from collections import Counter
from urllib.parse import parse_qsl

from app.config.problems import shorten_to_scheme

# The same split as SQLAlchemy's: a password may contain "?".
_LOGIN = re.compile(r"[\w+]+://(?:[^:/]*(?::[^@]*)?@)?")
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]\s]*)(:(?P<port>[0-9]{0,5}))?")
_SQLITE = re.compile(r"sqlite://(/|\?|$)")
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_SQLITE_PARAMETERS = ("timeout",)
# Written out, because gunicorn reads the settings before gevent patches the modules that psycopg imports.
_LIBPQ_NAMES = """
application_name channel_binding client_encoding connect_timeout dbname fallback_application_name
gssdelegation gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle
keepalives_interval krbsrvname load_balance_hosts max_protocol_version min_protocol_version
oauth_client_id oauth_client_secret oauth_issuer oauth_scope options passfile password port replication
require_auth requirepeer scram_client_key scram_server_key service ssl_max_protocol_version
ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode
sslnegotiation sslpassword sslrootcert sslsni target_session_attrs tcp_user_timeout user
"""
LIBPQ_PARAMETERS = tuple(_LIBPQ_NAMES.split())
_POOL = "remove it: each process has its own pool of six connections"
_POOLER = "remove it: a pooler such as PgBouncer is recognized, and prepared statements are off behind it"
_SCHEMA_SETTING = "remove it, and set DATABASE_SCHEMA, or `schema` of a sink"
_SERVER_SETTING = "write it as options=-c%20NAME%3DVALUE"
# Parameters of other drivers, in lower case.
_HINTS = {
    **dict.fromkeys(("connection_limit", "max_overflow", "pool", "pool_size", "pool_timeout"), _POOL),
    **dict.fromkeys(
        (
            "pgbouncer",
            "prepare_threshold",
            "preparethreshold",
            "prepared_statement_cache_size",
            "prepared_statements",
            "statement_cache_size",
        ),
        _POOLER,
    ),
    **dict.fromkeys(("schema", "currentschema", "search_path"), _SCHEMA_SETTING),
    **dict.fromkeys(("statement_timeout", "lock_timeout", "timezone", "datestyle"), _SERVER_SETTING),
    **dict.fromkeys(
        ("ssl", "sslaccept", "sslidentity", "ssl_mode", "tls"),
        "use sslmode=require, or sslmode=verify-full with sslrootcert",
    ),
    **dict.fromkeys(("socket_timeout", "timeout"), "use connect_timeout or tcp_user_timeout"),
    "applicationname": "use application_name",
}


# The names of MySQL's own client; the driver's default is PREFERRED.
_TLS_MODES = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
_MYSQL = re.compile(r"(mysql|mariadb|mysql\+pymysql)://")
_MYSQL_PARAMETERS = (
    *("connect_timeout", "read_timeout", "ssl_ca", "ssl_cert", "ssl_key", "ssl_mode"),
    *("unix_socket", "write_timeout"),
)
_USE_TLS_MODE = "use ssl_mode=REQUIRED, or ssl_mode=VERIFY_IDENTITY with ssl_ca"
_MYSQL_HINTS = {
    **dict.fromkeys(("ssl", "ssl-mode", "sslmode", "tls", "usessl", "ssl_verify_cert"), _USE_TLS_MODE),
    **dict.fromkeys(("charset", "collation"), "remove it: connections use utf8mb4"),
    **dict.fromkeys(("time_zone", "timezone"), "remove it: connections use UTC"),
    **dict.fromkeys(("socket", "host"), "use unix_socket, or name the host before the database"),
}


def check_store_url(url: str) -> str:
    """Return a URL of the inbox's database; raise ValueError as check_database_url does, or for no file."""
    if not re.match(r"(sqlite|postgres|postgresql|postgresql\+psycopg)://", url):
        scheme = shorten_to_scheme(url)
        raise ValueError(
            f"{scheme}{' ' if scheme else ''}starts with neither postgres:// nor sqlite://; "
            "set the URL of a PostgreSQL or SQLite database"
        )
    if is_in_memory(url):
        raise ValueError("names no file; write sqlite:///FILE, because all processes share the database")
    return check_database_url(url)


def check_database_url(url: str) -> str:
    """Return a database URL; raise ValueError if its driver would refuse it or read it otherwise."""
    if _MYSQL.match(url):
        return _check_mysql_url(url)
    location, _, query = _LOGIN.sub("", url, count=1).partition("?")
    parameters = parse_qsl(query, keep_blank_values=True)
    is_sqlite = url.startswith("sqlite:")
    known = _SQLITE_PARAMETERS if is_sqlite else LIBPQ_PARAMETERS
    unknown = [name for name, _ in parameters if name not in known]
    if is_sqlite:
        if not _SQLITE.match(url):
            raise ValueError("is malformed; write sqlite:///FILE, or sqlite:////FILE for an absolute path")
    # A rest of the password, which an error would quote as a host, a database or a parameter.
    elif "@" in location or ("@" in query and unknown):
        raise ValueError("is malformed; percent-encode special characters in its password: %40 for @")
    else:
        _check_hosts(location)
    for name, count in Counter(name for name, _ in parameters).items():
        if name not in known:
            raise ValueError(f"has the unknown parameter {name[:40]}; {_find_hint(name, known)}")
        if count > 1 and name != "host":
            raise ValueError(f"has the parameter {name} {count} times; keep one of them")
    encodings = [value for name, value in parameters if name == "client_encoding"]
    if any(re.sub("[^a-z0-9]", "", value.lower()) not in ("utf8", "unicode") for value in encodings):
        raise ValueError("sets client_encoding; remove it: only UTF8 can represent every record")
    return url


def _check_mysql_url(url: str) -> str:
    location, _, query = _LOGIN.sub("", url, count=1).partition("?")
    parameters = parse_qsl(query, keep_blank_values=True)
    if "@" in location or ("@" in query and any(name not in _MYSQL_PARAMETERS for name, _ in parameters)):
        raise ValueError("is malformed; percent-encode special characters in its password: %40 for @")
    host, _, database = location.partition("/")
    match = _HOST.fullmatch(host)
    if match is None or not 0 < int(match["port"] or 3306) <= 65535:
        raise ValueError("has a malformed host or port; write mysql://USER:PASSWORD@HOST:3306/DATABASE")
    if not database:
        raise ValueError("names no database; write mysql://USER:PASSWORD@HOST:3306/DATABASE")
    for name, count in Counter(name for name, _ in parameters).items():
        if name not in _MYSQL_PARAMETERS:
            known = ", ".join(_MYSQL_PARAMETERS)
            hint = _MYSQL_HINTS.get(name.lower(), f"remove it, or use one of: {known}")
            raise ValueError(f"has the unknown parameter {name[:40]}; {hint}")
        if count > 1:
            raise ValueError(f"has the parameter {name} {count} times; keep one of them")
    for name, value in parameters:
        if name == "ssl_mode" and value.upper() not in _TLS_MODES:
            raise ValueError(f"has an unknown ssl_mode; use one of: {', '.join(_TLS_MODES)}")
        if name.endswith("_timeout") and not re.fullmatch("[1-9][0-9]{0,4}", value):
            raise ValueError(f"has a {name} that is not a number of seconds; write {name}=10")
    return url


def is_in_memory(url: str) -> bool:
    """Whether a SQLite URL names no file: every connection would have a database of its own, soon lost."""
    return re.fullmatch(r"sqlite://(/(:memory:)?)?(\?.*)?", url) is not None


def _check_hosts(location: str) -> None:
    """Check the hosts of a PostgreSQL URL. location: the URL between its login and its parameters."""
    for host in location.partition("/")[0].split(","):
        match = _HOST.fullmatch(host)
        if match is None or not 0 < int(match["port"] or 5432) <= 65535:
            raise ValueError(
                "has a malformed host or port; write postgres://USER:PASSWORD@HOST:5432/DATABASE"
            )


def check_schema_name(name: str) -> str:
    """Return a schema's name; raise ValueError for one that PostgreSQL reserves or that needs escapes."""
    if not _SCHEMA.fullmatch(name) or name.lower().startswith("pg_"):
        raise ValueError("is no name of a schema; use letters, digits, _ and -, and no prefix pg_")
    return name


def _find_hint(name: str, known: tuple[str, ...]) -> str:
    if known == _SQLITE_PARAMETERS:
        return f"remove it: for SQLite only {', '.join(known)} is known"
    if hint := _HINTS.get(name.lower()):
        return hint
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)
    return f"use {near[0]}" if near else "remove it, or use one that libpq knows"
