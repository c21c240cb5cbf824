"""rapidbridge deliveries: the received deliveries and their states."""

import click

from app.cli.deliveries.export import export
from app.cli.deliveries.list import list_deliveries
from app.cli.deliveries.show import show
from app.cli.deliveries.tail import tail


@click.group()
def deliveries() -> None:
    """List, show, export and follow received deliveries.

    A delivery is one POST of Truto's, stored as it was received. Its body holds your customers' data: only
    --body, --raw and export print it.
    """


for _command in (list_deliveries, show, export, tail):
    deliveries.add_command(_command)
