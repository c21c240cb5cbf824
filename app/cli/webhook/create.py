"""rapidbridge webhook create."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from app.cli.runs.asking import AS_JSON, truto
from app.cli.webhook.addresses import fault_of_target, shown
from app.cli.webhook.env_file import EnvFile
from app.errors import TrutoRefused
from app.truto.webhooks import EVENTS, Webhook

_SETTING = "TRUTO_WEBHOOK_SECRET"


def _target(_context: click.Context, _option: click.Parameter, given: str) -> str:
    if fault := fault_of_target(given):
        raise click.BadParameter(fault)
    return given


def _events(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> Sequence[str]:
    names = [name.strip() for text in given for name in text.split(",")]
    return list(dict.fromkeys(filter(None, names))) or list(EVENTS)


@click.command()
@click.option("--url", required=True, callback=_target, help="Where Truto is to send to: https://….")
@click.option(
    "--events",
    multiple=True,
    callback=_events,
    help="Which events, comma-separated.  [default: all that matter here]",
)
@click.option(
    "--env-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Add the secret to this file instead of printing it.",
)
@AS_JSON
def create(url: str, events: Sequence[str], env_file: Path | None, *, as_json: bool) -> None:
    """Create a webhook at Truto, and tell its secret: Truto shows it this once.

    Add the printed setting to the receiver's, then restart it. Name the webhook's id as `webhook_id` in your
    sync jobs.

    \b
    Example:
      rapidbridge webhook create --url https://sync.example.com/webhooks/truto
      rapidbridge webhook create --url https://… --env-file .env
    """
    file = EnvFile(env_file) if env_file else None
    if file:
        file.check()
    with truto() as api:
        try:
            made = api.create_webhook(url, events)
        except TrutoRefused as error:
            click.echo(str(error), err=True)
            if error.http_status in (400, 422):
                click.echo(
                    f"If it does not know an event, name others. Asked for: {','.join(events)}", err=True
                )
            sys.exit(1)
    if not made.secret:
        click.echo(
            f"Truto created webhook {made.id} and told no secret: nothing of it can be verified.", err=True
        )
        sys.exit(1)
    kept_in = _keep(file, made) if file else None
    _tell_as_json(made, events, kept_in) if as_json else _tell(made, url, events, kept_in)


def _keep(file: EnvFile, made: Webhook) -> Path | None:
    try:
        file.add(f"{made.id}={made.secret}")
    except OSError as error:
        # It cannot be had a second time: shown after all.
        click.echo(f"{file.path} cannot be written ({error.strerror}): the secret is printed.", err=True)
        return None
    return file.path


def _tell(made: Webhook, url: str, events: Sequence[str], kept_in: Path | None) -> None:
    click.echo(f"Webhook {made.id} sends {len(events)} kinds of events to {shown(url)}")
    if kept_in:
        click.echo(f"Its secret was added to {_SETTING} in {kept_in}.")
    else:
        click.echo("Truto shows its secret this once. Set it, beside those that are set already:\n")
        click.echo(f"{_SETTING}={made.id}={made.secret}\n")
    click.echo(f"Restart the receiver, then try it out: rapidbridge webhook test {made.id}")


def _tell_as_json(made: Webhook, events: Sequence[str], kept_in: Path | None) -> None:
    told = {"id": made.id, "event_types": list(events), "env_file": str(kept_in) if kept_in else None}
    told |= {} if kept_in else {_SETTING: f"{made.id}={made.secret}"}
    click.echo(json.dumps(told))
