"""rapidbridge runs start."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from app.cli.common.audit import audit_at_truto
from app.cli.common.clients import open_truto_api
from app.cli.common.ids import parse_truto_ids
from app.cli.common.options import json_option
from app.cli.common.suggestions import SuggestingChoice
from app.errors import TrutoRefused
from app.runs.control import start_run


@click.command()
@click.option("--job", required=True, metavar="ID", callback=parse_truto_ids, help="The sync job's id.")
@click.option(
    "--account", required=True, metavar="ID", callback=parse_truto_ids, help="The integrated account's id."
)
@click.option(
    "--webhook", required=True, metavar="ID", callback=parse_truto_ids, help="The receiving webhook's id."
)
@click.option(
    "--arg", "args", multiple=True, metavar="NAME=VALUE", help="Job argument; JSON or text. Repeatable."
)
@click.option(
    "--error-handling",
    type=SuggestingChoice(["fail_fast", "ignore", "batch"]),
    help="Effect of a failed request on the run.  [default: the job's setting]",
)
@click.option(
    "--ignore-previous-run",
    is_flag=True,
    help="Fetch all records, not only changes since the last run. Slow and expensive.",
)
@json_option
def start(
    job: str,
    account: str,
    webhook: str,
    args: Sequence[str],
    error_handling: str | None,
    *,
    ignore_previous_run: bool,
    as_json: bool,
) -> None:
    """Start a run of a sync job and print its id.

    \b
    Example:
      rapidbridge runs start --job ID --account ID --webhook ID
    """
    job_args = dict(map(_parse_argument, args))
    with open_truto_api() as api:
        try:
            run = start_run(
                api,
                sync_job_id=job,
                integrated_account_id=account,
                webhook_id=webhook,
                args=job_args,
                error_handling=error_handling,
                ignore_previous_run=ignore_previous_run,
            )
        except TrutoRefused as error:
            click.echo(str(error), err=True)
            sys.exit(1)
    audit_at_truto("run.start", run.id)
    click.echo(run.model_dump_json() if as_json else run.id)


def _parse_argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint="--arg")
    try:
        # A constant that JSON does not have, such as NaN, is text.
        parsed = json.loads(value, parse_constant=str)
        json.dumps(parsed, allow_nan=False)
    except (ValueError, RecursionError):
        return name, value.encode(errors="replace").decode()
    return name, parsed
