"""rapidbridge runs: start and stop sync job runs at Truto."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import click

from app.config import read_environment, read_settings
from app.errors import TrutoRefused
from app.truto.api import TrutoApi
from app.truto.client import Client
from app.truto.runs import SyncJobRun, is_final

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


@click.group()
def runs() -> None:
    """Start and stop sync job runs. Needs TRUTO_API_TOKEN."""


def _run_id(_context: click.Context, _option: click.Parameter, given: Any) -> Any:
    for text in [given] if isinstance(given, str) else given or ():
        try:
            UUID(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no id of Truto's: those are UUIDs.") from error
    return given


@runs.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="ID...", callback=_run_id)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_AS_JSON
def stop(run_ids: Sequence[str], *, yes: bool, as_json: bool) -> None:
    """Stop runs: Truto fetches and sends nothing more of them.

    What they have sent stays. A run that has ended is left as it is. Exits 1 if one could not be stopped.

    \b
    Example:
      rapidbridge runs stop 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5
    """
    with _api() as api:
        if not yes:
            _confirm(api, run_ids)
        stopped: list[dict[str, Any]] = []
        try:
            for run_id in run_ids:
                stopped.append(_stop(api, run_id))
                if not as_json:
                    _show(stopped[-1])
        finally:
            # Also where Truto is away from here on: what was stopped is stopped.
            if as_json:
                click.echo(json.dumps(stopped))
    if any(not line["is_stopped"] for line in stopped):
        sys.exit(1)


@runs.command()
@click.option("--job", required=True, callback=_run_id, help="The sync job's id.")
@click.option("--account", required=True, callback=_run_id, help="The integrated account's id.")
@click.option("--webhook", required=True, callback=_run_id, help="The id of the webhook that it sends to.")
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
@_AS_JSON
def start(job: str, account: str, webhook: str, args: Sequence[str], **options: Any) -> None:
    """Start a run of a sync job for one account; prints its id."""
    told: dict[str, Any] = {"sync_job_id": job, "integrated_account_id": account, "webhook_id": webhook}
    if args:
        told["args"] = dict(map(_argument, args))
    if options["error_handling"]:
        told["error_handling"] = options["error_handling"]
    if options["ignore_previous_run"]:
        told["ignore_previous_run"] = True
    with _api() as api:
        try:
            run = api.start_run(told)
        except TrutoRefused as error:
            click.echo(str(error), err=True)
            sys.exit(1)
    click.echo(run.model_dump_json() if options["as_json"] else run.id)


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint="--arg")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@contextmanager
def _api() -> Iterator[TrutoApi]:
    settings = read_settings(read_environment(), needs=("TRUTO_API_TOKEN",))
    with Client(settings.truto_api_url, settings.truto_api_token) as client:
        yield TrutoApi(client)


def _confirm(api: TrutoApi, run_ids: Sequence[str]) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody is there to confirm: pass --yes to stop them without asking.")
    for run_id in run_ids:
        try:
            run = api.get_run(run_id)
            click.echo(f"{run_id}  {run.status}, job {run.sync_job_id}, account {run.integrated_account_id}")
        except TrutoRefused as error:
            click.echo(f"{run_id}  {error}")
    click.confirm("Stop this run?" if len(run_ids) == 1 else f"Stop these {len(run_ids)} runs?", abort=True)


def _show(line: Mapping[str, Any]) -> None:
    told = (line["sync_job_run_id"], line["status"] or "unknown", line["message"])
    click.echo("  ".join(told).rstrip())


def _stop(api: TrutoApi, run_id: str) -> dict[str, Any]:
    """Stop a run unless it has ended; return what became of it."""
    line: dict[str, Any] = {"sync_job_run_id": run_id, "is_stopped": True, "message": ""}
    try:
        run = api.get_run(run_id)
        if is_final(run.status or ""):
            return {**line, "status": run.status, "message": "it had ended before"}
        return {**line, "status": _status(api.stop_run(run_id))}
    except TrutoRefused as error:
        return {**line, "status": None, "is_stopped": False, "message": str(error)}


def _status(run: SyncJobRun) -> str:
    # It still says `running` where Truto stops it after the page at hand.
    return run.status if run.status and is_final(run.status) else "stopping"
