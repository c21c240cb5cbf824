"""rapidbridge deliveries: what arrived, and what became of each."""

import click

from app.cli.deliveries.exporting import export
from app.cli.deliveries.listing import list_deliveries
from app.cli.deliveries.showing import show
from app.cli.deliveries.tailing import tail


@click.group()
def deliveries() -> None:
    """Look at what arrived: every POST, as it came.

    Bodies hold your customers' data: they are printed only where that is asked for.
    """


for _command in (list_deliveries, show, export, tail):
    deliveries.add_command(_command)
