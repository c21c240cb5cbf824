"""rapidbridge webhook create."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from app.cli.common.clients import open_truto_api
from app.cli.common.options import json_option
from app.cli.webhook.addresses import find_target_problem, redact_address
from app.cli.webhook.env_file import EnvFile
from app.errors import TrutoRefused
from app.truto.webhooks import SUBSCRIBED_EVENTS, Webhook

_SECRET_SETTING = "TRUTO_WEBHOOK_SECRET"  # noqa: S105  # a name


def _check_target(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if problem := find_target_problem(value):
        raise click.BadParameter(problem)
    return value


def _parse_events(_context: click.Context, _option: click.Parameter, value: Sequence[str]) -> Sequence[str]:
    names = [name.strip() for text in value for name in text.split(",")]
    return list(dict.fromkeys(filter(None, names))) or list(SUBSCRIBED_EVENTS)


@click.command()
@click.option("--url", required=True, callback=_check_target, help="Where Truto is to send to: https://….")
@click.option(
    "--events",
    multiple=True,
    callback=_parse_events,
    help="Which events, comma-separated.  [default: all that matter here]",
)
@click.option(
    "--env-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Add the secret to this file instead of printing it.",
)
@json_option
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
        file.check_writable()
    with open_truto_api() as api:
        try:
            webhook = api.create_webhook(url, events)
        except TrutoRefused as error:
            click.echo(str(error), err=True)
            if error.http_status in (400, 422):
                click.echo(
                    f"If it does not know an event, name others. Asked for: {','.join(events)}", err=True
                )
            sys.exit(1)
    if not webhook.secret:
        click.echo(
            f"Truto created webhook {webhook.id} and told no secret: nothing of it can be verified.", err=True
        )
        sys.exit(1)
    secret_file = _save_secret(file, webhook) if file else None
    _print_json(webhook, events, secret_file) if as_json else _print_webhook(
        webhook, url, events, secret_file
    )


def _save_secret(file: EnvFile, webhook: Webhook) -> Path | None:
    try:
        file.add_secret(f"{webhook.id}={webhook.secret}")
    except OSError as error:
        # It cannot be had a second time: shown after all.
        click.echo(f"{file.path} cannot be written ({error.strerror}): the secret is printed.", err=True)
        return None
    return file.path


def _print_webhook(webhook: Webhook, url: str, events: Sequence[str], secret_file: Path | None) -> None:
    click.echo(f"Webhook {webhook.id} sends {len(events)} kinds of events to {redact_address(url)}")
    if secret_file:
        click.echo(f"Its secret was added to {_SECRET_SETTING} in {secret_file}.")
    else:
        click.echo("Truto shows its secret this once. Set it, beside those that are set already:\n")
        click.echo(f"{_SECRET_SETTING}={webhook.id}={webhook.secret}\n")
    click.echo(f"Restart the receiver, then try it out: rapidbridge webhook test {webhook.id}")


def _print_json(webhook: Webhook, events: Sequence[str], secret_file: Path | None) -> None:
    output = {
        "id": webhook.id,
        "event_types": list(events),
        "env_file": str(secret_file) if secret_file else None,
    }
    output |= {} if secret_file else {_SECRET_SETTING: f"{webhook.id}={webhook.secret}"}
    click.echo(json.dumps(output))
