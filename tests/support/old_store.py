"""A store of an earlier revision."""

from alembic import command
from alembic.config import Config

from app.database.engine import Database
from app.store import migrate as migrations


def upgrade_to(database: Database, revision: str) -> None:
    """Apply the revisions up to this one, in one transaction; not for one that builds indexes online."""
    config = Config()
    config.set_main_option("script_location", str(migrations._MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with database.transaction() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
