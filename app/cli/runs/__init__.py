"""rapidbridge runs: sync job runs, seen, started, stopped and accounted for."""

import click

from app.cli.runs.list import list_runs
from app.cli.runs.reconcile import reconcile
from app.cli.runs.show import show
from app.cli.runs.start import start
from app.cli.runs.stop import stop
from app.cli.runs.watch import watch


@click.group()
def runs() -> None:
    """See sync job runs, account for their records, start and stop them.

    What is asked of Truto needs TRUTO_API_TOKEN.
    """


for _command in (list_runs, show, watch, reconcile, start, stop):
    runs.add_command(_command)
