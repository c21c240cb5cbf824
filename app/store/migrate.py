"""Migration of the store's tables to the schema of this release."""

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select, text

from app.database.engine import Database
from app.database.provision import CREATE_UTF8_DATABASE, create_schema, read_encoding
from app.errors import ConfigError
from app.store.schema import PREFIX

VERSION_TABLE = PREFIX + "schema_version"
_MIGRATIONS = Path(__file__).parent / "migrations"
# Alembic's table has its own metadata: a test compares ours with the migrations.
_version = Table(VERSION_TABLE, MetaData(), Column("version_num", Text))
# An arbitrary constant: two releases that migrate at once must wait for each other.
_ADVISORY_LOCK = 7_262_131


def migrate(database: Database) -> tuple[str | None, str]:
    """Apply all missing revisions in one transaction; return the revision before and after.

    Creates the database's schema if it is missing. Raises ConfigError for an encoding other than UTF8.
    """
    # Imported here: the web process only calls `is_current`, and Alembic costs it 40 ms and 8 MB.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    with database.transaction() as connection:
        if database.dialect.name == "postgresql":
            _check_encoding(connection)
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
            if database.schema:
                create_schema(connection, database.schema)
        before = _read_revision(connection)
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before, _read_revision(connection) or ""


def _check_encoding(connection: Connection) -> None:
    encoding = read_encoding(connection)
    if encoding != "UTF8":
        problem = (
            f"DATABASE_URL: the database has the encoding {encoding}, which cannot represent every record. "
            f"Create another one, and set DATABASE_URL to it: {CREATE_UTF8_DATABASE}"
        )
        raise ConfigError([problem])


def is_current(database: Database) -> bool:
    """Whether every revision of this code has been applied."""
    with database.read_transaction() as connection:
        return _read_revision(connection) == _find_newest_revision()


def _find_newest_revision() -> str:
    """Return the newest revision of this code: file names begin with its number."""
    return max(file.name.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _read_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.execute(select(_version.c.version_num)).scalar()
    return revision
