"""Facts about the store's database: version, settings, latency, connections."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, text

from app.clock import utc_now
from app.database.engine import Database, parse_url

_POSTGRESQL_SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "transaction_read_only",
    "server_encoding",
)
# Our own sessions have the same application_name, which the URL may set.
_CONNECTIONS = text(
    """
    SELECT current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int AS of_server,
      (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS of_database,
      (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS of_role,
      count(*) FILTER (WHERE is_ours) AS ours,
      count(*) FILTER (WHERE NOT is_ours) AS others,
      count(*) FILTER (WHERE NOT is_ours AND datname = current_database()) AS others_here
    FROM pg_stat_activity,
      LATERAL (SELECT coalesce(application_name, '') = current_setting('application_name') AS is_ours) AS o
    WHERE datname IS NOT NULL
    """
)


@dataclass(frozen=True, slots=True)
class ConnectionCounts:
    """Connections to the server. available: to our processes together. in_use: of them, on all machines."""

    available: int
    in_use: int


@dataclass(frozen=True, slots=True)
class DatabaseInfo:
    """Facts about a database.

    version: as numbers. latency_s: of one statement on an open connection. clock_ahead_s: the server's clock
    minus ours; None for SQLite. settings: by the server's own names. connections: None for SQLite and behind
    a pooler, which has limits of its own.
    """

    product: str
    version: tuple[int, ...]
    latency_s: float
    clock_ahead_s: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    connections: ConnectionCounts | None = None
    is_pooled: bool = False


def database_file(url: str) -> Path | None:
    """Return the file of a SQLite database; None for other databases and for SQLite in memory."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database)


def missing_file(url: str) -> Path | None:
    """Return the file of a SQLite database if it does not exist: connecting would create it."""
    path = database_file(url)
    return path if path and not path.exists() else None


def inspect_database(database: Database) -> DatabaseInfo:
    """Read the facts about a database; raises StoreUnavailable."""
    with database.read_transaction() as connection:
        return (
            _inspect_postgresql(connection)
            if database.dialect.name == "postgresql"
            else _inspect_sqlite(connection)
        )


def _inspect_sqlite(connection: Connection) -> DatabaseInfo:
    before = time.monotonic()
    version = str(connection.execute(text("SELECT sqlite_version()")).scalar_one())
    latency_s = time.monotonic() - before
    settings = {
        name: str(connection.execute(text(f"PRAGMA {name}")).scalar_one())
        for name in ("journal_mode", "synchronous")
    }
    return DatabaseInfo("SQLite", _parse_version(version), latency_s, settings=settings)


def _inspect_postgresql(connection: Connection) -> DatabaseInfo:
    from app.database.session_settings import is_pooled  # noqa: PLC0415  # loads psycopg; see open_engine

    before, started = utc_now(), time.monotonic()
    server_time: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    latency_s = time.monotonic() - started
    # The answer was on its way for about half of the latency.
    ahead_s = (server_time - before).total_seconds() - latency_s / 2
    settings = {name: _read_setting(connection, name) for name in _POSTGRESQL_SETTINGS}
    version = _read_setting(connection, "server_version").partition(" ")[0]
    return DatabaseInfo(
        "PostgreSQL",
        _parse_version(version),
        latency_s,
        ahead_s,
        settings,
        None if is_pooled(connection) else _count_connections(connection),
        is_pooled(connection),
    )


def _count_connections(connection: Connection) -> ConnectionCounts:
    row = connection.execute(_CONNECTIONS).one()
    own = [
        limit - row.others_here
        for limit in (row.of_database, row.of_role)
        if limit is not None and limit >= 0
    ]
    return ConnectionCounts(min([row.of_server - row.others, *own]), row.ours)


def _read_setting(connection: Connection, name: str) -> str:
    return str(connection.execute(text("SELECT current_setting(:name)"), {"name": name}).scalar_one())


def _parse_version(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
