"""What the commands about deliveries have in common: ids, and the store."""

import sys
from typing import Any, NoReturn
from uuid import UUID

import click

from app.config.settings import read_environment, read_settings
from app.database.engine import Database, open_database

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


def parse_delivery_ids(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
    """Read one or several ids of deliveries, for click."""
    try:
        return UUID(value) if isinstance(value, str) else tuple(map(UUID, value or ()))
    except ValueError as error:
        raise click.BadParameter("a delivery's id is a UUID, as the answer to its POST names it.") from error


def open_interactive_store() -> Database:
    """Open the store of the settings for somebody who waits; raises ConfigError."""
    return open_database(read_settings(read_environment()).database_url, interactive=True)


def exit_not_found(delivery_id: UUID) -> NoReturn:
    """Say that there is no such delivery, and end."""
    click.echo(f"There is no delivery {delivery_id} here.", err=True)
    sys.exit(1)
