"""rapidbridge deliveries: what arrived, and what became of each."""

import click

from app.cli.deliveries.export import export
from app.cli.deliveries.list import list_deliveries
from app.cli.deliveries.show import show
from app.cli.deliveries.tail import tail


@click.group()
def deliveries() -> None:
    """Look at what arrived: every POST, as it came.

    Bodies hold your customers' data: they are printed only where that is asked for.
    """


for _command in (list_deliveries, show, export, tail):
    deliveries.add_command(_command)
