"""Command group `rapidbridge webhook`: webhooks at Truto."""

import click

from app.cli.webhook.create import create
from app.cli.webhook.listen import listen
from app.cli.webhook.probe import probe
from app.cli.webhook.reactivate import reactivate
from app.cli.webhook.show import show
from app.cli.webhook.test import test as test_webhook


@click.group()
def webhook() -> None:
    """Create, show and test the webhook at Truto.

    All commands but `listen` need TRUTO_API_TOKEN.
    """


for _command in (create, show, test_webhook, probe, reactivate, listen):
    webhook.add_command(_command)
