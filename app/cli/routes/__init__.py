"""rapidbridge routes: checks, explanations and suggestions for the routes file."""

import click

from app.cli.routes.check import check
from app.cli.routes.explain import explain
from app.cli.routes.suggest import suggest


@click.group()
def routes() -> None:
    """Check the routes file, explain routes, and suggest columns.

    The routes file decides which deliveries go to which sinks: docs/routes.md. Nothing is written.
    """


for _command in (check, explain, suggest):
    routes.add_command(_command)
