"""rapidbridge operations list."""

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.operations import format_progress, to_json_values
from app.cli.common.options import json_option
from app.cli.common.output import format_time, print_json, shorten
from app.cli.common.tables import format_table
from app.store.operations import Operations

_MAX_REQUESTER_WIDTH = 24


@click.command(name="list")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The number to list."
)
@json_option
def list_operations(limit: int, *, as_json: bool) -> None:
    """List replays and discards, newest first.

    \b
    Examples:
      rapidbridge operations list
      rapidbridge operations list --json
    """
    operations = Operations(open_interactive_database()).list_newest(limit=limit)
    if as_json:
        print_json({"operations": [to_json_values(operation) for operation in operations]})
        return
    rows = [
        (
            str(operation.id),
            operation.kind.replace("_", " "),
            operation.state,
            format_progress(operation),
            format_time(operation.requested_at),
            shorten(operation.requested_by, _MAX_REQUESTER_WIDTH),
        )
        for operation in operations
    ]
    for line in format_table(("id", "kind", "state", "done", "requested", "by"), rows) if rows else ():
        click.echo(line)
    if not rows:
        click.echo("No operations.")
