"""rapidbridge runs start."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from app.cli.common.clients import JSON_OPTION, open_truto_api, parse_truto_ids
from app.errors import TrutoRefused


@click.command()
@click.option("--job", required=True, callback=parse_truto_ids, help="The sync job's id.")
@click.option("--account", required=True, callback=parse_truto_ids, help="The integrated account's id.")
@click.option(
    "--webhook", required=True, callback=parse_truto_ids, help="The id of the webhook that it sends to."
)
@click.option(
    "--arg", "args", multiple=True, metavar="NAME=VALUE", help="An argument of the job: JSON, or text."
)
@click.option(
    "--error-handling",
    type=click.Choice(["fail_fast", "ignore", "batch"]),
    help="What a failing request does to the run.  [default: the job's]",
)
@click.option(
    "--ignore-previous-run",
    is_flag=True,
    help="Fetch everything again, not what changed since the last run. Expensive.",
)
@JSON_OPTION
def start(job: str, account: str, webhook: str, args: Sequence[str], **options: Any) -> None:
    """Start a run of a sync job for one account; prints its id."""
    request: dict[str, Any] = {"sync_job_id": job, "integrated_account_id": account, "webhook_id": webhook}
    if args:
        request["args"] = dict(map(_parse_argument, args))
    if options["error_handling"]:
        request["error_handling"] = options["error_handling"]
    if options["ignore_previous_run"]:
        request["ignore_previous_run"] = True
    with open_truto_api() as api:
        try:
            run = api.start_run(request)
        except TrutoRefused as error:
            click.echo(str(error), err=True)
            sys.exit(1)
    click.echo(run.model_dump_json() if options["as_json"] else run.id)


def _parse_argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint="--arg")
    try:
        # What JSON does not know, such as NaN, is text.
        read = json.loads(value, parse_constant=str)
        json.dumps(read, allow_nan=False)
    except (ValueError, RecursionError):
        return name, value.encode(errors="replace").decode()
    return name, read
