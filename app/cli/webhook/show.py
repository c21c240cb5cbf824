"""rapidbridge webhook show."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from app.cli.common.output import printable
from app.cli.runs.asking import AS_JSON, run_id, truto
from app.cli.webhook.addresses import fault_of_target, shown
from app.cli.webhook.known import known_webhooks
from app.config.settings import read_environment, read_settings
from app.errors import TrutoRefused
from app.truto.webhooks import Webhook, missing_events

_WIDTH = 9


@click.command()
@click.argument("webhook_ids", nargs=-1, metavar="[ID...]", callback=run_id)
@AS_JSON
def show(webhook_ids: Sequence[str], *, as_json: bool) -> None:
    """Show webhooks as they stand at Truto: switched on, sent where, which events, and what is missing.

    Without an ID: those that TRUTO_WEBHOOK_SECRET pins, and those that recent runs were sent to. Exits 1 if
    one is unknown to Truto, switched off, or lacks events.

    \b
    Example:
      rapidbridge webhook show
    """
    with truto() as api:
        ids = webhook_ids or known_webhooks(read_settings(read_environment()))
        if not ids:
            raise click.UsageError("No webhook is known here yet: name its id.")
        lines: list[dict[str, Any]] = []
        for each in ids:
            try:
                lines.append(_line(api.get_webhook(each)))
            except TrutoRefused as error:
                lines.append({"id": each, "is_fine": False, "message": str(error)})
    if as_json:
        click.echo(json.dumps(lines))
    else:
        click.echo("\n".join(text for line in lines for text in _tell(line)))
    if not all(line["is_fine"] for line in lines):
        sys.exit(1)


def _line(webhook: Webhook) -> dict[str, Any]:
    missing = missing_events(webhook.event_types)
    return {
        "id": webhook.id,
        "is_active": webhook.is_active,
        "target_url": shown(webhook.target_url),
        "target_fault": fault_of_target(webhook.target_url),
        "event_types": list(webhook.event_types),
        "missing_events": list(missing),
        "is_fine": webhook.is_active is not False and not missing,
    }


def _tell(line: dict[str, Any]) -> Iterator[str]:
    head = click.style(f"webhook {printable(line['id'])}", bold=True)
    if "message" in line:
        yield f"{head}  {line['message']}"
        return
    word, colour = {True: ("active", "green"), False: ("inactive", "red")}.get(
        line["is_active"], ("unknown", "yellow")
    )
    yield f"{head}  {click.style(word, fg=colour)}"
    facts = {
        "target": line["target_url"],
        "but": line["target_fault"],
        "events": _list(line["event_types"]) or "none",
        "missing": _list(line["missing_events"]),
        "do": f"rapidbridge webhook reactivate {printable(line['id'])}" if line["is_active"] is False else "",
    }
    yield from (f"  {name:{_WIDTH}}{value}" for name, value in facts.items() if value)


def _list(events: Sequence[str]) -> str:
    """Name events, each below the one before it."""
    return f"\n{' ' * (_WIDTH + 2)}".join(map(printable, events))
