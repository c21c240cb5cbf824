"""Command `rapidbridge webhook test`: have Truto send a test event."""

import sys

import click

from app.cli.common.clients import open_truto_api
from app.cli.common.ids import parse_truto_ids
from app.cli.common.options import json_option
from app.cli.common.output import print_json
from app.errors import TrutoRefused


@click.command()
@click.argument("webhook_id", metavar="ID", callback=parse_truto_ids)
@json_option
def test(webhook_id: str, *, as_json: bool) -> None:
    """Have Truto send a `test` event to a webhook.

    Does the same as the button in Truto's dashboard.

    Exit codes: 0 if the receiver accepted the event, else 1.

    \b
    Example:
      rapidbridge webhook test 3c1a5e2e-6d0b-4d5c-9a51-0f8a1c1a7f10
    """
    message = ""
    with open_truto_api() as api:
        try:
            is_accepted = api.test_webhook(webhook_id)
        except TrutoRefused as error:
            is_accepted, message = False, str(error)
    if as_json:
        print_json({"id": webhook_id, "is_accepted": is_accepted, "message": message})
    elif is_accepted:
        click.echo("Truto sent a test event, and the receiver accepted it.")
    else:
        click.echo(message or "The receiver did not accept Truto's test event; read the receiver's log.")
    if not is_accepted:
        sys.exit(1)
