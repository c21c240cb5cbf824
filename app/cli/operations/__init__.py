"""rapidbridge operations: replays and discards in the background."""

import click

from app.cli.operations.cancel import cancel
from app.cli.operations.list import list_operations
from app.cli.operations.show import show


@click.group()
def operations() -> None:
    """List, follow and cancel replays and discards.

    An operation is started by the dashboard, by `replay`, `dead replay` and `dead discard`, or by an agent.
    It continues in the background while `rapidbridge worker` runs.
    """


for _command in (list_operations, show, cancel):
    operations.add_command(_command)
