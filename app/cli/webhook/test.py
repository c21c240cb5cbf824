"""rapidbridge webhook test, and reactivate."""

import json
import sys

import click

from app.cli.common.clients import open_truto_api
from app.cli.common.ids import parse_truto_ids
from app.cli.common.options import json_option
from app.errors import TrutoRefused


@click.command()
@click.argument("webhook_id", metavar="ID", callback=parse_truto_ids)
@json_option
def test(webhook_id: str, *, as_json: bool) -> None:
    """Have Truto send a `test` event to a webhook, as its dashboard's button does.

    Exits 1 if the receiver did not take it.

    \b
    Example:
      rapidbridge webhook test 3c1a5e2e-6d0b-4d5c-9a51-0f8a1c1a7f10
    """
    message = ""
    with open_truto_api() as api:
        try:
            is_taken = api.test_webhook(webhook_id)
        except TrutoRefused as error:
            is_taken, message = False, str(error)
    if as_json:
        click.echo(json.dumps({"id": webhook_id, "is_taken": is_taken, "message": message}))
    elif is_taken:
        click.echo("Truto sent a test event, and the receiver took it.")
    else:
        click.echo(message or "Truto says that the receiver did not take it: see the receiver's log.")
    if not is_taken:
        sys.exit(1)


@click.command()
@click.argument("webhook_id", metavar="ID", callback=parse_truto_ids)
@json_option
def reactivate(webhook_id: str, *, as_json: bool) -> None:
    """Switch on a webhook that Truto has switched off, as it does after failures over a long time.

    Mend first what made it fail. What Truto did not send meanwhile is not sent later: see
    `rapidbridge runs reconcile --refetch`. Exits 1 if it is still off.

    \b
    Example:
      rapidbridge webhook reactivate 3c1a5e2e-6d0b-4d5c-9a51-0f8a1c1a7f10
    """
    message = ""
    with open_truto_api() as api:
        try:
            is_active = api.activate_webhook(webhook_id).is_active
        except TrutoRefused as error:
            is_active, message = False, str(error)
    if as_json:
        click.echo(json.dumps({"id": webhook_id, "is_active": is_active, "message": message}))
    elif is_active is not False:
        click.echo(f"Webhook {webhook_id} is active.")
    else:
        click.echo(message or f"Webhook {webhook_id} is still inactive.")
    if is_active is False:
        sys.exit(1)
