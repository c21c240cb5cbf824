"""Command `rapidbridge webhook reactivate`: reactivate a webhook that Truto switched off."""

import sys

import click

from app.cli.common.audit import audit_at_truto
from app.cli.common.clients import open_truto_api
from app.cli.common.ids import parse_truto_ids
from app.cli.common.messages import print_message
from app.cli.common.options import json_option
from app.cli.common.output import print_json
from app.errors import TrutoRefused


@click.command()
@click.argument("webhook_id", metavar="ID", callback=parse_truto_ids)
@json_option
def reactivate(webhook_id: str, *, as_json: bool) -> None:
    """Reactivate a webhook that Truto switched off.

    Truto switches a webhook off after its deliveries have failed for a long time. Fix the cause first. Truto
    does not send the missed events later: to fetch their records again, run `rapidbridge runs reconcile
    --refetch`.

    Exit codes: 0 if the webhook is active, 1 if it is still inactive, or Truto's answer does not
    show it.

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
    if is_active:
        audit_at_truto("webhook.reactivate", webhook_id)
    if as_json:
        print_json({"id": webhook_id, "is_active": is_active, "message": message})
    elif is_active:
        click.echo(f"Webhook {webhook_id} is active.")
    elif is_active is None:
        print_message(
            "Truto accepted the request, but its answer does not show if the webhook is active. To check it, "
            f"run: rapidbridge webhook show {webhook_id}"
        )
    else:
        click.echo(message or f"Webhook {webhook_id} is still inactive.")
    if not is_active:
        sys.exit(1)
