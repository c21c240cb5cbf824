"""Command `rapidbridge doctor`: check the installation."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from urllib.parse import urlsplit

import click

from app.checks.all_checks import build_checks
from app.checks.check_result import CheckResult, is_ok
from app.checks.receiver import summarize_receiver
from app.checks.run_checks import list_unchecked, run_checks
from app.cli.common.check_results import format_results, format_summary
from app.cli.common.options import json_option
from app.cli.common.output import print_json
from app.cli.common.program import DEFAULT_PORT
from app.cli.local.development_secret import WEBHOOK_SECRET
from app.config.load import read_config
from app.truto.target_url import WEBHOOK_PATH

_TIMEOUT_S = 15.0


def _check_url(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        try:
            parts = urlsplit(value)
        except ValueError as error:
            raise click.BadParameter("not a URL.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.BadParameter(f"not a URL; use http(s)://<host>{WEBHOOK_PATH}.")
    return value


@click.command()
@click.option(
    "--url",
    callback=_check_url,
    help=f"URL of the receiver to test.  [default: http://127.0.0.1:PORT{WEBHOOK_PATH}]",
)
@click.option("--no-post", is_flag=True, help="Do not send a test event to the receiver.")
@click.option(
    "--setup-only",
    is_flag=True,
    help="Before the processes are started: no test event, and no failure without workers.",
)
@json_option
def doctor(url: str | None, *, no_post: bool, setup_only: bool, as_json: bool) -> None:
    """Check the installation and print how to fix every problem.

    Checks the settings, the database, Redis, the workers and the sinks; with TRUTO_API_TOKEN, also the
    webhooks at Truto. Sends one signed `test` event to the receiver, which stores it. Changes nothing else
    and prints no secret.

    On a platform where the web process runs on another machine, name its public address with --url: without
    it, a receiver that does not listen on this machine is not checked, and is no failure. The last lines name
    everything that could not be checked.

    Exit codes: 0 if no check failed (warnings are allowed), 1 if a check failed, 2 if the settings or the
    routes file are invalid.

    \b
    Examples:
      rapidbridge doctor
      rapidbridge doctor --url https://sync.example.com/webhooks/truto
      rapidbridge doctor --setup-only
      heroku run python -m app.cli doctor --url https://…/webhooks/truto
    """
    if url and setup_only:
        raise click.UsageError("--url and --setup-only exclude each other: a receiver at --url is started.")
    config = read_config()
    settings = config.settings
    receiver_url = url or f"http://127.0.0.1:{settings.port}{WEBHOOK_PATH}"
    checks = build_checks(
        config,
        receiver_url=None if no_post or setup_only else receiver_url,
        is_receiver_expected=url is not None,
        are_workers_expected=not setup_only,
        development_secret=None if settings.webhook_secrets else WEBHOOK_SECRET.read(),
    )
    results = run_checks(checks, timeout_s=_TIMEOUT_S)
    if as_json:
        print_json(
            {
                "ok": is_ok(results),
                "checks": [asdict(result) for result in results],
                "not_checked": list_unchecked(checks, results),
            }
        )
    else:
        click.echo("\n".join(result_lines(results, components=checks, port=settings.port)))
    if not is_ok(results):
        sys.exit(1)


def result_lines(
    results: Sequence[CheckResult], *, components: Iterable[str] = (), port: int = DEFAULT_PORT
) -> Iterator[str]:
    """Yield the results for a terminal, then a summary.

    components: of the checks that were run. port: of the receiver that hints name.
    """
    yield from format_results(results, port=port)
    yield summarize_receiver(results)
    # The sentence above is about the receiver.
    if unchecked := [
        text for text in list_unchecked(components, results) if not text.startswith("receiver: ")
    ]:
        yield "Not checked:"
        yield from (f"  {text}" for text in unchecked)
    yield format_summary(results)
