"""rapidbridge runs: sync job runs, seen, started, stopped and accounted for."""

import click

from app.cli.runs.listing import list_runs
from app.cli.runs.reconciling import reconcile
from app.cli.runs.showing import show
from app.cli.runs.starting import start
from app.cli.runs.stopping import stop
from app.cli.runs.watching import watch


@click.group()
def runs() -> None:
    """See sync job runs, account for their records, start and stop them.

    What is asked of Truto needs TRUTO_API_TOKEN.
    """


for _command in (list_runs, show, watch, reconcile, start, stop):
    runs.add_command(_command)
