"""rapidbridge dead: what did not reach its sinks, and what becomes of it."""

import click

from app.cli.dead.discard import discard
from app.cli.dead.list import list_dead
from app.cli.dead.replay import replay_dead
from app.cli.dead.show import show


@click.group()
def dead() -> None:
    """See to what did not reach its sinks: deliveries, and single records.

    All of it is kept until you replay it or give it up.
    """


for _command in (list_dead, show, replay_dead, discard):
    dead.add_command(_command)
