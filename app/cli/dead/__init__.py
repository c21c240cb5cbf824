"""rapidbridge dead: failed deliveries and dead records."""

import click

from app.cli.dead.discard import discard
from app.cli.dead.list import list_dead
from app.cli.dead.replay import replay_dead
from app.cli.dead.show import show


@click.group()
def dead() -> None:
    """List, replay and discard deliveries and records that failed.

    A failed delivery is dead, quarantined, unrouted or late. A dead record is one that could not be read, or
    that a sink rejected. Both are kept until you replay or discard them.
    """


for _command in (list_dead, show, replay_dead, discard):
    dead.add_command(_command)
