"""rapidbridge routes check."""

import sys
from dataclasses import asdict
from functools import partial

import click

from app.checks.check_result import is_ok
from app.checks.routes import check_misfits, check_routes
from app.checks.run_checks import Check, run_checks
from app.checks.sinks import check_sink
from app.cli.common.check_results import format_results, format_summary
from app.cli.common.options import json_option
from app.cli.common.output import print_json
from app.config.load import read_config

_TIMEOUT_S = 15.0


@click.command()
@click.option("--offline", is_flag=True, help="Do not connect to the sinks or the database.")
@json_option
def check(*, offline: bool, as_json: bool) -> None:
    """Check the routes file, and whether its sinks can be written.

    Names every problem with its line; compares the tables of SQL sinks with `columns`; warns of routes that
    never match, of tables that two resources would share, and of columns whose values did not fit.

    Exit codes: 0 if no check failed, 1 if one failed, 2 if the file is invalid.

    \b
    Example:
      ROUTES_FILE=new.toml rapidbridge routes check
    """
    config = read_config()
    checks: dict[str, Check] = {"routes": partial(check_routes, config)}
    if not offline:
        checks["misfits"] = partial(check_misfits, config)
        for name in config.routes.sinks:
            checks[f"sink {name}"] = partial(check_sink, name, config.routes)
    results = run_checks(checks, timeout_s=_TIMEOUT_S)
    if as_json:
        print_json({"ok": is_ok(results), "checks": [asdict(result) for result in results]})
    else:
        for line in format_results(results, port=config.settings.port):
            click.echo(line)
        click.echo(format_summary(results))
    if not is_ok(results):
        sys.exit(1)
