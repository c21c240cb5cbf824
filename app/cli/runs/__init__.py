"""rapidbridge runs: sync job runs, from the database and from Truto."""

import click

from app.cli.runs.list import list_runs
from app.cli.runs.reconcile import reconcile
from app.cli.runs.show import show
from app.cli.runs.start import start
from app.cli.runs.stop import stop
from app.cli.runs.watch import watch


@click.group()
def runs() -> None:
    """List, watch, reconcile, start and stop sync job runs.

    `start` and `stop` need TRUTO_API_TOKEN. `watch` and `reconcile` ask Truto if it is set.
    """


for _command in (list_runs, show, watch, reconcile, start, stop):
    runs.add_command(_command)
