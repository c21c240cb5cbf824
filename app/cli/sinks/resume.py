"""rapidbridge sinks resume."""

import click

from app.cli.common.audit import audit
from app.cli.common.clients import open_interactive_database
from app.cli.sinks.known import check_sink_name
from app.config.load import read_config
from app.store.sink_states import SinkStates
from app.store.sink_status import list_sink_statuses


@click.command()
@click.argument("name", metavar="NAME")
def resume(name: str) -> None:
    """Resume a sink: workers write its held deliveries.

    `rapidbridge worker` releases them in the order of their arrival.

    \b
    Example:
      rapidbridge sinks resume main
    """
    config = read_config()
    check_sink_name(config, name)
    database = open_interactive_database(config.settings)
    held = next(status.held for status in list_sink_statuses(database, [name]) if status.sink == name)
    states = SinkStates(database)
    if states.is_paused(name):
        audit(database, "sink.resume", name)
    if states.resume(name):
        click.echo(f"Sink {name} continues, with {held.format('held delivery')}.")
    else:
        click.echo(f"Sink {name} was not paused.")
