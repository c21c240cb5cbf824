"""rapidbridge webhook show."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from app.cli.common.clients import open_truto_api
from app.cli.common.ids import parse_truto_ids
from app.cli.common.options import json_option
from app.cli.common.output import replace_control_chars
from app.cli.webhook.addresses import find_target_problem, redact_address
from app.cli.webhook.known import list_known_webhooks
from app.config.settings import read_environment, read_settings
from app.errors import TrutoRefused
from app.truto.webhooks import Webhook, find_missing_events

_WIDTH = 9


@click.command()
@click.argument("webhook_ids", nargs=-1, metavar="[ID...]", callback=parse_truto_ids)
@json_option
def show(webhook_ids: Sequence[str], *, as_json: bool) -> None:
    """Show webhooks as they stand at Truto: switched on, sent where, which events, and what is missing.

    Without an ID: those that TRUTO_WEBHOOK_SECRET pins, and those that recent runs were sent to. Exits 1 if
    one is unknown to Truto, switched off, or lacks events.

    \b
    Example:
      rapidbridge webhook show
    """
    with open_truto_api() as api:
        ids = webhook_ids or list_known_webhooks(read_settings(read_environment()))
        if not ids:
            raise click.UsageError("No webhook is known here yet: name its id.")
        lines: list[dict[str, Any]] = []
        for webhook_id in ids:
            try:
                lines.append(_webhook_fields(api.get_webhook(webhook_id)))
            except TrutoRefused as error:
                lines.append({"id": webhook_id, "is_fine": False, "message": str(error)})
    if as_json:
        click.echo(json.dumps(lines))
    else:
        click.echo("\n".join(text for line in lines for text in _webhook_lines(line)))
    if not all(line["is_fine"] for line in lines):
        sys.exit(1)


def _webhook_fields(webhook: Webhook) -> dict[str, Any]:
    missing = find_missing_events(webhook.event_types)
    return {
        "id": webhook.id,
        "is_active": webhook.is_active,
        "target_url": redact_address(webhook.target_url),
        "target_fault": find_target_problem(webhook.target_url),
        "event_types": list(webhook.event_types),
        "missing_events": list(missing),
        "is_fine": webhook.is_active is not False and not missing,
    }


def _webhook_lines(line: dict[str, Any]) -> Iterator[str]:
    head = click.style(f"webhook {replace_control_chars(line['id'])}", bold=True)
    if "message" in line:
        yield f"{head}  {line['message']}"
        return
    status, colour = {True: ("active", "green"), False: ("inactive", "red")}.get(
        line["is_active"], ("unknown", "yellow")
    )
    yield f"{head}  {click.style(status, fg=colour)}"
    fields = {
        "target": line["target_url"],
        "but": line["target_fault"],
        "events": _join_events(line["event_types"]) or "none",
        "missing": _join_events(line["missing_events"]),
        "do": f"rapidbridge webhook reactivate {replace_control_chars(line['id'])}"
        if line["is_active"] is False
        else "",
    }
    yield from (f"  {name:{_WIDTH}}{value}" for name, value in fields.items() if value)


def _join_events(events: Sequence[str]) -> str:
    """Name events, each below the one before it."""
    return f"\n{' ' * (_WIDTH + 2)}".join(map(replace_control_chars, events))
