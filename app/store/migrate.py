"""Migration of the store's tables to the schema of this release."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select, text

from app.database.engine import Database, open_database
from app.database.provision import CREATE_UTF8_DATABASE, create_schema, read_encoding
from app.errors import ConfigError, StoreUnavailable
from app.store.roles import check_owner, check_same_database, check_schema, find_missing_rights
from app.store.schema import VERSION_TABLE

_MIGRATIONS = Path(__file__).parent / "migrations"
_version = Table(VERSION_TABLE, MetaData(), Column("version_num", Text))
# An arbitrary constant: two releases that migrate at once must wait for each other.
_ADVISORY_LOCK = 7_262_131
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:lock)")
_LIST_SESSIONS = (
    "SELECT pid, state, query_start, query FROM pg_stat_activity WHERE application_name = 'rapidbridge'"
)
_MAX_WAIT_S = 60
_POLL_INTERVAL_S = 0.2
# An index build waits for the transactions that were open before.
_MAX_LOCK_WAIT_S = 600


def migrate_as_owner(database: Database, owner_url: str) -> tuple[str | None, str]:
    """Apply all missing revisions as the role of another URL; return the revision before and after.

    owner_url: of the same database, with the role that owns the tables; "" for one role that does both.
    Raises ConfigError for another database, and if the role of `database` lacks a right on the tables.
    """
    if not owner_url:
        return migrate(database)
    owner = open_database(owner_url, schema=database.schema, setting="MIGRATION_DATABASE_URL")
    try:
        schema = check_same_database(owner, database)
        revisions = migrate(owner)
    finally:
        owner.close()
    if statements := find_missing_rights(database, schema=schema).statements:
        problem = (
            "DATABASE_URL: its role lacks rights on the tables, which are up to date. Run as their owner: "
            + " ".join(statements)
        )
        raise ConfigError([problem])
    return revisions


def migrate(database: Database) -> tuple[str | None, str]:
    """Apply all missing revisions; return the revision before and after.

    SQLite: in one transaction. PostgreSQL: in one transaction each, or in steps that leave the tables usable
    by the release that is running; an interrupted upgrade is completed by the next call. Tables of a newer
    release stay as they are: an earlier release runs with them.
    Creates the database's schema if it is missing. Raises ConfigError for an encoding other than UTF8, and
    StoreUnavailable if another migration does not end.
    """
    if database.dialect.name != "postgresql":
        with database.transaction() as connection:
            return _upgrade(connection)
    with _hold_lock(database):
        with database.transaction() as connection:
            _check_encoding(connection, database.setting)
            check_schema(connection, database)
            if database.schema:
                create_schema(connection, database.schema)
        with database.translate_errors(), database.engine.connect() as connection:
            try:
                _lift_timeouts(connection)
                if (_read_revision(connection) or "") < _find_newest_revision():
                    check_owner(connection, database)
                return _upgrade(connection)
            finally:
                # Its session has settings of its own.
                connection.invalidate()


def _upgrade(connection: Connection) -> tuple[str | None, str]:
    # Imported here: the web process only calls `is_current`, and Alembic costs it 40 ms and 8 MB.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    before = _read_revision(connection)
    if _is_newer(before):
        return before, before or ""
    if connection.dialect.name == "postgresql":
        # Alembic begins and commits the transactions of a connection that is in none.
        connection.commit()
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return before, _read_revision(connection) or ""


@contextmanager
def _hold_lock(database: Database) -> Iterator[None]:
    """Let one process migrate at a time."""
    deadline = time.monotonic() + _MAX_WAIT_S
    while True:
        # A transaction for each attempt: an index build would wait for the end of a longer one.
        with database.transaction() as connection:
            if connection.execute(_TRY_LOCK, {"lock": _ADVISORY_LOCK}).scalar_one():
                # Held until the end of the transaction. This statement also ends the snapshot of the one
                # before, for which an index build would wait.
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                yield
                return
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"another process migrates the database in {database.setting} since {_MAX_WAIT_S} s or "
                f'longer. List its sessions with: psql "${database.setting}" -c "{_LIST_SESSIONS}"; wait '
                "until it ends, then run: rapidbridge migrate"
            )
        time.sleep(_POLL_INTERVAL_S)


def _lift_timeouts(connection: Connection) -> None:
    """Let statements take the time that an index on a large table requires.

    Behind a pooler, the timeouts of the role or the database apply: other clients use the same sessions.
    """
    from app.database.session_settings import is_pooled  # noqa: PLC0415  # loads psycopg; see open_engine

    if not is_pooled(connection):
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text(f"SET lock_timeout = '{_MAX_LOCK_WAIT_S}s'"))
        connection.commit()


def _check_encoding(connection: Connection, setting: str) -> None:
    encoding = read_encoding(connection)
    if encoding != "UTF8":
        problem = (
            f"{setting}: the database has the encoding {encoding}, which cannot represent every record. "
            f"Create another one, and set {setting} to it: {CREATE_UTF8_DATABASE}"
        )
        raise ConfigError([problem])


def is_current(database: Database) -> bool:
    """Whether every revision of this code has been applied; a newer release may have applied more."""
    with database.read_transaction() as connection:
        return (_read_revision(connection) or "") >= _find_newest_revision()


def find_newer_revision(database: Database) -> str | None:
    """Return the revision of the tables if a newer release has migrated them."""
    with database.read_transaction() as connection:
        revision = _read_revision(connection)
        return revision if _is_newer(revision) else None


def _is_newer(revision: str | None) -> bool:
    return (revision or "") > _find_newest_revision()


def _find_newest_revision() -> str:
    """Return the newest revision of this code: file names begin with its number."""
    return max(file.name.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _read_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.execute(select(_version.c.version_num)).scalar()
    return revision
