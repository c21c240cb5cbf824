"""Command `rapidbridge mcp`: serve the receiver to an agent."""

import click

from app.config.current_config import CurrentConfig
from app.config.load import read_config
from app.database.inspection import missing_file
from app.errors import ConfigError, StoreUnavailable
from app.logs import configure_logging
from app.store.store_database import open_store

# Short enough for one line: a command that is wrapped cannot be pasted.
_EXTRA = "The extra `mcp` is missing. In the checkout, run: pip install -e '.[mcp]'"


@click.command()
@click.option("--allow-write", is_flag=True, help="Add tools that replay, discard, pause, resume and stop.")
def mcp(*, allow_write: bool) -> None:
    """Serve the receiver to an agent, over the Model Context Protocol.

    An agent's program starts this command and speaks to it over standard input and output. Its tools read
    accounts, runs, deliveries, failures, sinks and checks, and never a body. The log goes to standard error.

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
    database = open_store(settings)
    current_config = CurrentConfig(config)
    current_config.start()
    try:
        build_server(current_config, database, allow_write=allow_write).run("stdio")
    finally:
        database.close()
