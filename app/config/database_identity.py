"""The identity of the database that a URL names, without its user and passwords."""

import hashlib
import re
from pathlib import Path
from urllib.parse import parse_qs, unquote

_DEFAULT_PORT = "5432"
_DEFAULT_MYSQL_PORT = "3306"
_MAX_NAME_CHARS = 24
_SQLITE_PREFIX = re.compile(r"sqlite(\+\w+)?:///?")
# As SQLAlchemy reads it: a password may contain "/" and "?".
_POSTGRESQL_URL = re.compile(
    r"postgres(?:ql)?(?:\+\w+)?://(?:(?P<user>[^:/@]*)(?::[^@]*)?@)?"
    r"(?P<hosts>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_MYSQL_URL = re.compile(
    r"(?:mysql(?:\+\w+)?|mariadb)://(?:[^:/@]*(?::[^@]*)?@)?"
    r"(?P<host>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_SEARCH_PATH = re.compile(r"search_path\s*=\s*(\S+)")


def identify_database(url: str, schema: str = "") -> str:
    """Return a text that is equal for the same schema of the same database, as far as the URLs show it.

    schema: "" for that of the URL's search path.

    Users and passwords do not count, because they rotate; neither do options of the connection, except a
    search path. A host has the same identity only under the same name.
    """
    database, hosts, search_path = _split_url(url)
    return "|".join((database, ",".join(hosts), schema or search_path))


def derive_namespace(url: str, schema: str = "") -> str:
    """Return a name for a database and its schema: the database's own name, and a hash of both."""
    database, _, _ = _split_url(url)
    name = re.sub(r"[^a-z0-9]+", "-", Path(database).stem.lower()).strip("-")[:_MAX_NAME_CHARS]
    digest = hashlib.sha256(identify_database(url, schema).encode()).hexdigest()[:10]
    return f"{name or 'database'}-{digest}"


def list_hosts(url: str) -> list[str]:
    """Return the hosts of a URL without ports: names, addresses, or folders of sockets; "" for the default.

    Empty for SQLite, and for a URL that leaves its host to a service file.
    """
    _, hosts, _ = _split_url(url)
    names = [host if "/" in host else host.rpartition(":")[0].strip("[]") for host in hosts]
    return [] if any("service=" in name for name in names) else names


def _split_url(url: str) -> tuple[str, list[str], str]:
    """Return the database, its hosts with ports, and its search path."""
    if url.startswith("sqlite"):
        path = _SQLITE_PREFIX.sub("", url, count=1).partition("?")[0]
        return (str(Path(path).resolve()) if path and path != ":memory:" else ":memory:"), [], ""
    if mysql := _MYSQL_URL.fullmatch(url):
        socket = parse_qs(mysql["query"] or "").get("unix_socket")
        # A password with an unescaped "@" is no part of the host.
        host = _normalize_host(mysql["host"].rpartition("@")[2], _DEFAULT_MYSQL_PORT)
        return unquote(mysql["database"] or ""), socket or [host], ""
    match = _POSTGRESQL_URL.fullmatch(url)
    if match is None:
        return url, [], ""
    query = parse_qs(match["query"] or "")

    def read(parameter: str, part: str | None = "") -> str:
        # libpq's rule: a parameter replaces a part of the URL.
        return ",".join(query[parameter]) if parameter in query else unquote(part or "")

    service = f"service={read('service')}" if "service" in query else ""
    # Without a name of its own, a database has that of the user.
    database = read("dbname", match["database"]) or service or read("user", match["user"])
    ports = read("port").split(",")
    # A password with an unescaped "@" is no part of the host.
    hosts = read("host", read("hostaddr", match["hosts"].rpartition("@")[2]) + service).split(",")
    default_port = ports[0] or _DEFAULT_PORT
    paired = [
        _normalize_host(host, ports[place] if len(ports) == len(hosts) and ports[place] else default_port)
        for place, host in enumerate(hosts)
    ]
    search_path = _SEARCH_PATH.search(" ".join(query.get("options", [])))
    return database, sorted(paired), search_path[1] if search_path else ""


def _normalize_host(host: str, default_port: str) -> str:
    if host.startswith("/"):
        # The folder of a socket: its case matters.
        return f"{host.rstrip('/')}:{default_port}"
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port or not port.isdecimal():
        name, port = host.rstrip(":"), default_port
    return f"{name.lower().rstrip('.')}:{port}"
