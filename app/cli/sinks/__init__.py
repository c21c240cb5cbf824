"""rapidbridge sinks: state, pause and resume of the sinks."""

import click

from app.cli.sinks.list import list_sinks
from app.cli.sinks.pause import pause
from app.cli.sinks.resume import resume


@click.group()
def sinks() -> None:
    """List, pause and resume the sinks of the routes file.

    Deliveries for a sink that is paused or fails are held. They use up no attempts, other sinks get them, and
    workers write them in the order of their arrival when the sink accepts deliveries again.
    """


for _command in (list_sinks, pause, resume):
    sinks.add_command(_command)
