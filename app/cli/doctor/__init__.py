"""rapidbridge doctor: is everything set up?"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from urllib.parse import urlsplit

import click

from app.cli.doctor.examination import Check, examine_all
from app.cli.doctor.finding import Finding
from app.cli.doctor.printing import finding_lines
from app.cli.doctor.receiver import check_receiver
from app.cli.doctor.redis import check_redis
from app.cli.doctor.secret import judge_secrets, judge_setup
from app.cli.doctor.sinks import check_sink
from app.cli.doctor.store import check_store
from app.cli.doctor.truto import check_truto
from app.cli.local.development_secret import known_development_secret
from app.cli.runs.asking import AS_JSON
from app.cli.webhook.addresses import WEBHOOK_PATH
from app.config.load import Setup, read_setup
from app.config.settings import WebhookSecret

_WITHIN_S = 15.0


def _address(_context: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    if given is not None:
        try:
            parts = urlsplit(given)
        except ValueError as error:
            raise click.BadParameter("it is no address.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.BadParameter(f"write http:// or https://, the host, and {WEBHOOK_PATH}.")
    return given


@click.command()
@click.option(
    "--url",
    callback=_address,
    help=f"The receiver to try out.  [default: http://127.0.0.1:PORT{WEBHOOK_PATH}]",
)
@click.option("--no-post", is_flag=True, help="Send nothing to the receiver.")
@AS_JSON
def doctor(url: str | None, *, no_post: bool, as_json: bool) -> None:
    """Say whether everything is set up, and what to do about what is not.

    Looks at settings, the store, Redis, workers, sinks, with TRUTO_API_TOKEN at Truto, and sends one signed
    `test` event to the receiver, which keeps it. Nothing else is changed, and no secret is shown.

    Exits 0 if nothing is red: yellow works, but may turn out badly. 1 if something is red, 2 if the settings
    or the routes file cannot be read.

    \b
    Example:
      rapidbridge doctor
      rapidbridge doctor --url https://sync.example.com/webhooks/truto
      heroku run python -m app.cli doctor --url https://<app>.herokuapp.com/webhooks/truto
    """
    findings = examine_all(_checks(read_setup(), url, no_post=no_post), within_s=_WITHIN_S)
    if as_json:
        told = {"ok": _is_fine(findings), "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(told))
    else:
        click.echo("\n".join(finding_lines(findings)))
    if not _is_fine(findings):
        sys.exit(1)


def _checks(setup: Setup, url: str | None, *, no_post: bool) -> dict[str, Check]:
    settings = setup.settings
    development = known_development_secret() if not settings.webhook_secrets else None
    checks: dict[str, Check] = {
        "settings": lambda: [
            *judge_setup(setup),
            *judge_secrets(settings.webhook_secrets, is_for_development=development is not None),
        ],
        "store": lambda: check_store(setup),
        "redis": lambda: check_redis(settings),
    }
    for name, spec in setup.routes.sinks.items():
        checks[f"sink {name}"] = partial(check_sink, name, spec)
    checks["truto"] = lambda: check_truto(settings)
    if not no_post:
        made = WebhookSecret(development) if development else None
        secret = next(iter(settings.webhook_secrets), made)
        target = url or f"http://127.0.0.1:{settings.port}{WEBHOOK_PATH}"
        checks["receiver"] = lambda: check_receiver(settings, target, secret)
    return checks


def _is_fine(findings: Sequence[Finding]) -> bool:
    return all(finding.level != "red" for finding in findings)
