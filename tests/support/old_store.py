"""A store of an earlier revision."""

from alembic import command
from alembic.config import Config

from app.database.engine import Database
from app.store import migrate as migrations


def upgrade_to(database: Database, revision: str) -> None:
    """Apply the revisions up to this one."""
    config = Config()
    config.set_main_option("script_location", str(migrations._MIGRATIONS))
    config.set_main_option("path_separator", "os")
    # Alembic begins and commits the transactions of a connection that is in none.
    is_postgresql = database.dialect.name == "postgresql"
    with database.engine.connect() if is_postgresql else database.transaction() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
