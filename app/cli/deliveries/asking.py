"""What the commands about deliveries have in common: ids, and the store."""

import sys
from typing import Any, NoReturn
from uuid import UUID

import click

from app.config.settings import read_environment, read_settings
from app.database.engine import Store, open_store

AS_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


def delivery_id(_context: click.Context, _option: click.Parameter, given: Any) -> Any:
    """Read one or several ids of deliveries, for click."""
    try:
        return UUID(given) if isinstance(given, str) else tuple(map(UUID, given or ()))
    except ValueError as error:
        raise click.BadParameter("a delivery's id is a UUID, as the answer to its POST names it.") from error


def open_for_person() -> Store:
    """Open the store of the settings for somebody who waits; raises ConfigError."""
    return open_store(read_settings(read_environment()).database_url, for_person=True)


def tell_unknown(unknown: UUID) -> NoReturn:
    """Say that there is no such delivery, and end."""
    click.echo(f"There is no delivery {unknown} here.", err=True)
    sys.exit(1)
