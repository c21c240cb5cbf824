"""Command `rapidbridge webhook create`: create a webhook at Truto."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from app.cli.common.audit import audit_at_truto
from app.cli.common.clients import open_truto_api
from app.cli.common.options import json_option
from app.cli.common.output import print_json
from app.cli.common.program import name_program
from app.cli.webhook.env_file import EnvFile
from app.errors import TrutoRefused
from app.plural import format_count
from app.truto.target_url import find_target_problem, redact_target_url
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
@click.option("--url", required=True, callback=_check_target, help="Target URL of the webhook: https://…")
@click.option(
    "--events",
    multiple=True,
    callback=_parse_events,
    help="Events, comma-separated.  [default: all that the receiver uses]",
)
@click.option(
    "--env-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Add the secret to this file instead of printing it.",
)
@json_option
def create(url: str, events: Sequence[str], env_file: Path | None, *, as_json: bool) -> None:
    """Create a webhook at Truto and print its secret.

    Truto shows the secret only once: add the printed value to the receiver's TRUTO_WEBHOOK_SECRET and restart
    the receiver. Set the webhook's id as `webhook_id` in your sync jobs.

    \b
    Examples:
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
                requested = ",".join(events)
                click.echo(f"If Truto does not know an event, set --events. Requested: {requested}", err=True)
            sys.exit(1)
    audit_at_truto("webhook.create", webhook.id)
    if not webhook.secret:
        click.echo(
            f"Truto created webhook {webhook.id} but returned no secret: its deliveries cannot be verified. "
            "Delete it at Truto and create another one.",
            err=True,
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
        # Truto does not show the secret again: print it, so that it is not lost.
        click.echo(f"Cannot write {file.path} ({error.strerror}): the secret is printed instead.", err=True)
        return None
    return file.path


def _print_webhook(webhook: Webhook, url: str, events: Sequence[str], secret_file: Path | None) -> None:
    click.echo(
        f"Webhook {webhook.id} sends {format_count(len(events), 'event type')} to {redact_target_url(url)}"
    )
    if secret_file:
        click.echo(f"Added its secret to {_SECRET_SETTING} in {secret_file}.")
    else:
        click.echo(
            "Truto shows the secret only once. Add it to the receiver's settings, after any other secret:\n"
        )
        click.echo(f"{_SECRET_SETTING}={webhook.id}={webhook.secret}\n")
    click.echo(name_program(f"Restart the receiver, then run: rapidbridge webhook test {webhook.id}"))


def _print_json(webhook: Webhook, events: Sequence[str], secret_file: Path | None) -> None:
    output = {
        "id": webhook.id,
        "event_types": list(events),
        "env_file": str(secret_file) if secret_file else None,
    }
    output |= {} if secret_file else {_SECRET_SETTING: f"{webhook.id}={webhook.secret}"}
    print_json(output)
