"""Brings the store's tables up to date, and tells whether they are."""

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select, text

from app.database.engine import Database
from app.store.schema import PREFIX

VERSION_TABLE = PREFIX + "schema_version"
_MIGRATIONS = Path(__file__).parent / "migrations"
# Alembic's own, and none of ours that a test compares with the migrations: hence in metadata of its own.
_version = Table(VERSION_TABLE, MetaData(), Column("version_num", Text))
# Any number, as long as it is always this one: two releases at once must take turns.
_ADVISORY_LOCK = 7_262_131


def migrate(database: Database) -> tuple[str | None, str]:
    """Apply every revision that is missing, in one transaction; return the revision before and after."""
    # Here, because the web process only asks: it would start 40 ms later and hold 8 MB for good.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    with database.transaction() as connection:
        if database.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        before = _read_revision(connection)
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before, _read_revision(connection) or ""


def is_current(database: Database) -> bool:
    """Whether every revision of this code has been applied."""
    with database.autocommit() as connection:
        return _read_revision(connection) == _find_newest_revision()


def _find_newest_revision() -> str:
    """Return what this code brings tables to: files of revisions begin with their numbers."""
    return max(file.name.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _read_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.execute(select(_version.c.version_num)).scalar()
    return revision
