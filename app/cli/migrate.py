"""rapidbridge migrate: database migrations."""

import click

from app.config.load import read_config
from app.database.engine import open_database
from app.store.migrate import migrate as apply_migrations


@click.command()
def migrate() -> None:
    """Create or update the tables in DATABASE_URL.

    The schema in DATABASE_SCHEMA is created if it is missing. The command is safe to run at any time, and
    several times at once.
    """
    settings = read_config().settings
    before, after = apply_migrations(open_database(settings.database_url, schema=settings.database_schema))
    if before == after:
        click.echo(f"The database is up to date (revision {after}).")
    else:
        click.echo(f"The database was updated from revision {before or 'none'} to {after}.")
