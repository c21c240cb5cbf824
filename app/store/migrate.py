"""Brings the store's tables up to date, and tells whether they are."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from app.store.engine import store_faults
from app.store.schema import PREFIX

VERSION_TABLE = PREFIX + "schema_version"
# Any number, as long as it is always this one: two releases at once must take turns.
_ADVISORY_LOCK = 7_262_131


def migrate(engine: Engine) -> tuple[str | None, str]:
    """Apply every revision that is missing, in one transaction; return the revision before and after."""
    with store_faults(), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        before = _revision(connection)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before, _revision(connection) or ""


def is_current(engine: Engine) -> bool:
    """Whether every revision of this code has been applied."""
    with store_faults(), engine.connect() as connection:
        return _revision(connection) == ScriptDirectory.from_config(_config()).get_current_head()


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
