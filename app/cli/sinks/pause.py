"""rapidbridge sinks pause."""

import click

from app.cli.common.audit import audit, describe_operator
from app.cli.common.clients import open_interactive_database
from app.cli.sinks.known import check_sink_name
from app.clock import utc_now
from app.config.load import read_config
from app.store.sink_states import SinkStates


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--reason", default="", metavar="TEXT", help="The reason, which is shown with the pause.")
def pause(name: str, reason: str) -> None:
    """Pause a sink: its deliveries are held.

    Workers finish the batch that they are writing, and pause within seconds. Other sinks get their
    deliveries.

    \b
    Example:
      rapidbridge sinks pause main --reason "moving the database"
    """
    config = read_config()
    check_sink_name(config, name)
    database = open_interactive_database(config.settings)
    states = SinkStates(database)
    if not states.is_paused(name):
        audit(database, "sink.pause", name)
    if states.pause(name, by=describe_operator(), reason=reason.strip(), now=utc_now()):
        click.echo(f"Sink {name} is paused. To continue: rapidbridge sinks resume {name}")
    else:
        click.echo(f"Sink {name} was paused before.")
