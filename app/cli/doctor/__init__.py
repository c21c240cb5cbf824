"""rapidbridge doctor: is everything set up?"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from urllib.parse import urlsplit

import click

from app.cli.common.options import json_option
from app.cli.doctor.examination import Check, run_checks
from app.cli.doctor.finding import CheckResult
from app.cli.doctor.printing import result_lines
from app.cli.doctor.receiver import check_receiver
from app.cli.doctor.redis import check_redis
from app.cli.doctor.secret import evaluate_config, evaluate_secrets
from app.cli.doctor.sinks import check_sink
from app.cli.doctor.store import check_store
from app.cli.doctor.truto import check_truto
from app.cli.local.development_secret import read_development_secret
from app.cli.webhook.addresses import WEBHOOK_PATH
from app.config.load import Config, read_config
from app.config.settings import WebhookSecret

_TIMEOUT_S = 15.0


def _check_address(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        try:
            parts = urlsplit(value)
        except ValueError as error:
            raise click.BadParameter("it is no address.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.BadParameter(f"write http:// or https://, the host, and {WEBHOOK_PATH}.")
    return value


@click.command()
@click.option(
    "--url",
    callback=_check_address,
    help=f"The receiver to try out.  [default: http://127.0.0.1:PORT{WEBHOOK_PATH}]",
)
@click.option("--no-post", is_flag=True, help="Send nothing to the receiver.")
@json_option
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
    results = run_checks(_build_checks(read_config(), url, no_post=no_post), timeout_s=_TIMEOUT_S)
    if as_json:
        output = {"ok": _is_ok(results), "findings": [asdict(result) for result in results]}
        click.echo(json.dumps(output))
    else:
        click.echo("\n".join(result_lines(results)))
    if not _is_ok(results):
        sys.exit(1)


def _build_checks(config: Config, url: str | None, *, no_post: bool) -> dict[str, Check]:
    settings = config.settings
    development = read_development_secret() if not settings.webhook_secrets else None
    checks: dict[str, Check] = {
        "settings": lambda: [
            *evaluate_config(config),
            *evaluate_secrets(settings.webhook_secrets, has_development_secret=development is not None),
        ],
        "store": lambda: check_store(config),
        "redis": lambda: check_redis(settings),
    }
    for name, sink_config in config.routes.sinks.items():
        checks[f"sink {name}"] = partial(check_sink, name, sink_config)
    checks["truto"] = lambda: check_truto(settings)
    if not no_post:
        generated_secret = WebhookSecret(development) if development else None
        secret = next(iter(settings.webhook_secrets), generated_secret)
        target = url or f"http://127.0.0.1:{settings.port}{WEBHOOK_PATH}"
        checks["receiver"] = lambda: check_receiver(settings, target, secret)
    return checks


def _is_ok(results: Sequence[CheckResult]) -> bool:
    return all(result.level != "red" for result in results)
