"""Command `rapidbridge mcp`: serve the receiver to an agent."""

import click

from app.config.load import read_config
from app.database.engine import open_database
from app.database.inspection import missing_file
from app.errors import ConfigError, StoreUnavailable
from app.logs import configure_logging

# Short enough for one line: a command that is wrapped cannot be pasted.
_EXTRA = "The extra `mcp` is missing. Run: pip install 'rapidbridge-receiver[mcp]'"


@click.command()
def mcp() -> None:
    """Serve the receiver to an agent, over the Model Context Protocol.

    An agent's program starts this command and speaks to it over standard input and output. Its tools read
    runs, deliveries, failures, routes and checks, and never a body. The log goes to standard error.

    \b
    Example, for a program that reads a JSON configuration:
      {"mcpServers": {"rapidbridge": {"command": "rapidbridge", "args": ["mcp"]}}}
    """
    try:
        # Loaded for this command only, and perhaps not installed.
        from app.mcp_server.server import build_server  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise ConfigError([_EXTRA]) from error
    config = read_config()
    configure_logging(config.settings.log_format)
    settings = config.settings
    if path := missing_file(settings.database_url):
        hint = "check DATABASE_URL, or create it with: rapidbridge migrate"
        raise StoreUnavailable(f"the database file {path} does not exist: {hint}")
    database = open_database(settings.database_url, schema=settings.database_schema)
    try:
        build_server(config, database).run("stdio")
    finally:
        database.close()
