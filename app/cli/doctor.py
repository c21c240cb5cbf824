"""Command `rapidbridge doctor`: check the installation."""

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from urllib.parse import urlsplit

import click

from app.checks.all_checks import build_checks
from app.checks.check_result import CheckLevel, CheckResult, is_ok
from app.checks.receiver import summarize_receiver
from app.checks.run_checks import run_checks
from app.cli.common.options import json_option
from app.cli.common.output import print_json, replace_control_chars
from app.cli.common.program import name_program
from app.cli.local.development_secret import WEBHOOK_SECRET
from app.config.load import read_config
from app.truto.target_url import WEBHOOK_PATH

_TIMEOUT_S = 15.0
_COLOURS: dict[CheckLevel, str] = {"ok": "green", "warn": "yellow", "fail": "red"}
_LEVEL_WIDTH, _CHECK_WIDTH = 6, 13
_MAX_WIDTH = 110


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
@json_option
def doctor(url: str | None, *, no_post: bool, as_json: bool) -> None:
    """Check the installation and print how to fix every problem.

    Checks the settings, the database, Redis, the workers and the sinks; with TRUTO_API_TOKEN, also the
    webhooks at Truto. Sends one signed `test` event to the receiver, which stores it. Changes nothing else
    and prints no secret.

    On a platform where the web process runs on another machine, name its public address with --url: without
    it, a receiver that does not listen on this machine is not checked, and is no failure.

    Exit codes: 0 if no check failed (warnings are allowed), 1 if a check failed, 2 if the settings or the
    routes file are invalid.

    \b
    Examples:
      rapidbridge doctor
      rapidbridge doctor --url https://sync.example.com/webhooks/truto
      heroku run python -m app.cli doctor --url https://…/webhooks/truto
    """
    config = read_config()
    settings = config.settings
    receiver_url = url or f"http://127.0.0.1:{settings.port}{WEBHOOK_PATH}"
    checks = build_checks(
        config,
        receiver_url=None if no_post else receiver_url,
        is_receiver_expected=url is not None,
        development_secret=None if settings.webhook_secrets else WEBHOOK_SECRET.read(),
    )
    results = run_checks(checks, timeout_s=_TIMEOUT_S)
    if as_json:
        print_json({"ok": is_ok(results), "checks": [asdict(result) for result in results]})
    else:
        click.echo("\n".join(result_lines(_name_program(results, port=settings.port))))
    if not is_ok(results):
        sys.exit(1)


def result_lines(results: Sequence[CheckResult]) -> Iterator[str]:
    """Yield the results for a terminal: grouped by component, then a summary."""
    for component, component_results in groupby(results, key=lambda result: result.component):
        yield click.style(replace_control_chars(component), bold=True)
        for result in component_results:
            yield from _format_result(result)
    yield ""
    if sentence := summarize_receiver(results):
        yield sentence
    yield _format_summary(results)


def _name_program(results: Sequence[CheckResult], *, port: int) -> list[CheckResult]:
    """Return the results with hints that run as the user called the program."""
    return [
        replace(
            result,
            message=name_program(result.message, port=port),
            advice=name_program(result.advice, port=port),
        )
        for result in results
    ]


def _format_result(result: CheckResult) -> Iterator[str]:
    indent = " " * (2 + _LEVEL_WIDTH + _CHECK_WIDTH)
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH) - len(indent)
    level = click.style(result.level.ljust(_LEVEL_WIDTH), fg=_COLOURS[result.level])
    first, *rest = _wrap_text(result.message, width)
    yield f"  {level}{result.check:{_CHECK_WIDTH}}{first}"
    yield from (indent + line for line in rest)
    if result.advice:
        for number, line in enumerate(_wrap_text(result.advice, width - 3)):
            yield f"{indent}{'-> ' if not number else '   '}{line}"


def _wrap_text(text: str, width: int) -> list[str]:
    # Keep commands and URLs whole at hyphens: people copy them.
    shown = replace_control_chars(" ".join(text.split()))
    return textwrap.wrap(shown, max(width, 20), break_on_hyphens=False) or [""]


def _format_summary(results: Sequence[CheckResult]) -> str:
    levels = [result.level for result in results]
    worst: CheckLevel = next((level for level in reversed(_COLOURS) if level in levels), "ok")
    counts = ", ".join(f"{levels.count(level)} {level}" for level in _COLOURS)
    return click.style(f"{counts}.", fg=_COLOURS[worst])
