"""rapidbridge webhook: the webhook at Truto, and what it sends."""

import click

from app.cli.webhook.create import create
from app.cli.webhook.listen import listen
from app.cli.webhook.show import show
from app.cli.webhook.test import reactivate
from app.cli.webhook.test import test as test_webhook


@click.group()
def webhook() -> None:
    """Create a webhook at Truto, look at it, try it out, switch it on again, watch what it sends.

    All but `listen` needs TRUTO_API_TOKEN.
    """


for _command in (create, show, test_webhook, reactivate, listen):
    webhook.add_command(_command)
