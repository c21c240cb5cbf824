"""rapidbridge runs stop."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from app.cli.common.clients import JSON_OPTION, open_truto_api, parse_truto_ids
from app.errors import TrutoRefused
from app.truto.client import TrutoApi
from app.truto.runs import SyncJobRun, is_final


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="ID...", callback=parse_truto_ids)
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON_OPTION
def stop(run_ids: Sequence[str], *, yes: bool, as_json: bool) -> None:
    """Stop runs: Truto fetches and sends nothing more of them.

    What they have sent stays. A run that has ended is left as it is. Exits 1 if one could not be stopped.

    \b
    Example:
      rapidbridge runs stop 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5
    """
    with open_truto_api() as api:
        if not yes:
            _confirm_stop(api, run_ids)
        stopped: list[dict[str, Any]] = []
        try:
            for run_id in run_ids:
                stopped.append(_stop_run(api, run_id))
                if not as_json:
                    _print_line(stopped[-1])
        finally:
            # Also where Truto is away from here on: what was stopped is stopped.
            if as_json:
                click.echo(json.dumps(stopped))
    if any(not line["is_stopped"] for line in stopped):
        sys.exit(1)


def _confirm_stop(api: TrutoApi, run_ids: Sequence[str]) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody is there to confirm: pass --yes to stop them without asking.")
    for run_id in run_ids:
        try:
            run = api.get_run(run_id)
            click.echo(f"{run_id}  {run.status}, job {run.sync_job_id}, account {run.integrated_account_id}")
        except TrutoRefused as error:
            click.echo(f"{run_id}  {error}")
    click.confirm("Stop this run?" if len(run_ids) == 1 else f"Stop these {len(run_ids)} runs?", abort=True)


def _print_line(line: Mapping[str, Any]) -> None:
    cells = (line["sync_job_run_id"], line["status"] or "unknown", line["message"])
    click.echo("  ".join(cells).rstrip())


def _stop_run(api: TrutoApi, run_id: str) -> dict[str, Any]:
    """Stop a run unless it has ended; return what became of it."""
    line: dict[str, Any] = {"sync_job_run_id": run_id, "is_stopped": True, "message": ""}
    try:
        run = api.get_run(run_id)
        if is_final(run.status or ""):
            return {**line, "status": run.status, "message": "it had ended before"}
        return {**line, "status": _stopped_status(api.stop_run(run_id))}
    except TrutoRefused as error:
        return {**line, "status": None, "is_stopped": False, "message": str(error)}


def _stopped_status(run: SyncJobRun) -> str:
    # It still says `running` where Truto stops it after the page at hand.
    return run.status if run.status and is_final(run.status) else "stopping"
