"""rapidbridge deletes: rows that full syncs no longer have."""

import click

from app.cli.deletes.approve import approve
from app.cli.deletes.list import list_deletes


@click.group()
def deletes() -> None:
    """List and approve the rows that full syncs no longer have.

    A route with track_deletes marks the rows that a complete run did not see as deleted. Marks are held back
    if the run may lack records, or if more than max_deleted_share of the rows are gone.
    """


for _command in (list_deletes, approve):
    deletes.add_command(_command)
