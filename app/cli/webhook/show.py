"""Command `rapidbridge webhook show`: state of webhooks at Truto."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from app.checks.known_webhooks import list_known_webhooks
from app.cli.common.clients import open_truto_api
from app.cli.common.ids import parse_truto_ids
from app.cli.common.options import json_option
from app.cli.common.output import print_json, replace_control_chars
from app.cli.common.program import name_program
from app.config.settings import read_environment, read_settings
from app.errors import TrutoRefused
from app.truto.target_url import find_target_problem, redact_target_url
from app.truto.webhooks import Webhook, find_missing_events, sends_all_events

_WIDTH = 9


@click.command()
@click.argument("webhook_ids", nargs=-1, metavar="[ID...]", callback=parse_truto_ids)
@json_option
def show(webhook_ids: Sequence[str], *, as_json: bool) -> None:
    """Show the state, target URL and events of webhooks.

    Without an ID: the webhooks that TRUTO_WEBHOOK_SECRET pins and those that recent runs used.

    Exit codes: 0 if all are fine; 1 if a webhook is unknown to Truto, inactive or lacks events.

    \b
    Example:
      rapidbridge webhook show
    """
    with open_truto_api() as api:
        ids = webhook_ids or list_known_webhooks(read_settings(read_environment()))
        if not ids:
            raise click.UsageError("No webhook is known yet; pass its ID.")
        webhooks: list[dict[str, Any]] = []
        for webhook_id in ids:
            try:
                webhooks.append(_webhook_fields(api.get_webhook(webhook_id)))
            except TrutoRefused as error:
                webhooks.append({"id": webhook_id, "ok": False, "message": str(error)})
    if as_json:
        print_json(webhooks)
    else:
        click.echo("\n".join(line for fields in webhooks for line in _webhook_lines(fields)))
    if not all(fields["ok"] for fields in webhooks):
        sys.exit(1)


def _webhook_fields(webhook: Webhook) -> dict[str, Any]:
    missing = find_missing_events(webhook.event_types)
    return {
        "id": webhook.id,
        "is_active": webhook.is_active,
        "target_url": redact_target_url(webhook.target_url),
        "target_problem": find_target_problem(webhook.target_url),
        "event_types": list(webhook.event_types),
        "missing_events": list(missing),
        "ok": webhook.is_active is not False and not missing,
    }


def _webhook_lines(fields: dict[str, Any]) -> Iterator[str]:
    shown_id = replace_control_chars(fields["id"])
    head = click.style(f"webhook {shown_id}", bold=True)
    if "message" in fields:
        yield f"{head}  {fields['message']}"
        return
    status, colour = {True: ("active", "green"), False: ("inactive", "red")}.get(
        fields["is_active"], ("unknown", "yellow")
    )
    yield f"{head}  {click.style(status, fg=colour)}"
    hint = name_program(f"rapidbridge webhook reactivate {shown_id}")
    rows = {
        "target": fields["target_url"],
        "problem": fields["target_problem"],
        "events": "all" if sends_all_events(fields["event_types"]) else _join_events(fields["event_types"]),
        "missing": _join_events(fields["missing_events"]),
        "run": hint if fields["is_active"] is False else "",
    }
    yield from (f"  {name:{_WIDTH}}{value}" for name, value in rows.items() if value)


def _join_events(events: Sequence[str]) -> str:
    """Return event names, one a line, indented as a value."""
    return f"\n{' ' * (_WIDTH + 2)}".join(map(replace_control_chars, events))
