"""rapidbridge support-bundle: a file for people who help."""

import json

import click

from app.checks.support_bundle import build_invalid_bundle, build_support_bundle
from app.cli.common.output import encode_value
from app.cli.common.output_file import open_output
from app.clock import utc_now
from app.config.load import read_config
from app.errors import ConfigError


@click.command()
@click.option(
    "--output",
    "target",
    metavar="FILE",
    help="File to write; - is standard output.  [default: rapidbridge-support-TIME.json]",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def support_bundle(target: str | None, *, force: bool) -> None:
    """Write a file that describes this installation, for a bug report.

    It holds the results of `rapidbridge doctor` without a test event, the settings that differ from their
    defaults, the patterns of the routes, versions, numbers, and the failures of the last 7 days by reason.
    Secrets, tokens, passwords and URLs are shown as "set". It holds no record, no body and no account, but
    names of hosts, sinks and resources: read it before you send it.

    The command also works with invalid settings or routes: the file then holds the problems.

    \b
    Examples:
      rapidbridge support-bundle
      heroku run python -m app.cli support-bundle --output - > bundle.json
    """
    now = utc_now()
    target = target or f"rapidbridge-support-{now:%Y%m%d-%H%M%S}.json"
    try:
        bundle = build_support_bundle(read_config(), now=now)
    except ConfigError as error:
        bundle = build_invalid_bundle(error.problems, now=now)
    text = json.dumps(bundle, indent=2, default=encode_value)
    with open_output(target, force=force) as file:
        file.write(f"{text}\n".encode())
    if target != "-":
        click.echo(
            f"Wrote {target}. Read it before you send it: it names hosts, sinks and resources.", err=True
        )
