"""rapidbridge runs stop."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from app.cli.runs.asking import AS_JSON, run_id, truto
from app.errors import TrutoRefused
from app.truto.api import TrutoApi
from app.truto.runs import SyncJobRun, is_final


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="ID...", callback=run_id)
@click.option("--yes", is_flag=True, help="Do not ask.")
@AS_JSON
def stop(run_ids: Sequence[str], *, yes: bool, as_json: bool) -> None:
    """Stop runs: Truto fetches and sends nothing more of them.

    What they have sent stays. A run that has ended is left as it is. Exits 1 if one could not be stopped.

    \b
    Example:
      rapidbridge runs stop 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5
    """
    with truto() as api:
        if not yes:
            _confirm(api, run_ids)
        stopped: list[dict[str, Any]] = []
        try:
            for each in run_ids:
                stopped.append(_stop(api, each))
                if not as_json:
                    _show(stopped[-1])
        finally:
            # Also where Truto is away from here on: what was stopped is stopped.
            if as_json:
                click.echo(json.dumps(stopped))
    if any(not line["is_stopped"] for line in stopped):
        sys.exit(1)


def _confirm(api: TrutoApi, run_ids: Sequence[str]) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody is there to confirm: pass --yes to stop them without asking.")
    for each in run_ids:
        try:
            run = api.get_run(each)
            click.echo(f"{each}  {run.status}, job {run.sync_job_id}, account {run.integrated_account_id}")
        except TrutoRefused as error:
            click.echo(f"{each}  {error}")
    click.confirm("Stop this run?" if len(run_ids) == 1 else f"Stop these {len(run_ids)} runs?", abort=True)


def _show(line: Mapping[str, Any]) -> None:
    told = (line["sync_job_run_id"], line["status"] or "unknown", line["message"])
    click.echo("  ".join(told).rstrip())


def _stop(api: TrutoApi, each: str) -> dict[str, Any]:
    """Stop a run unless it has ended; return what became of it."""
    line: dict[str, Any] = {"sync_job_run_id": each, "is_stopped": True, "message": ""}
    try:
        run = api.get_run(each)
        if is_final(run.status or ""):
            return {**line, "status": run.status, "message": "it had ended before"}
        return {**line, "status": _status(api.stop_run(each))}
    except TrutoRefused as error:
        return {**line, "status": None, "is_stopped": False, "message": str(error)}


def _status(run: SyncJobRun) -> str:
    # It still says `running` where Truto stops it after the page at hand.
    return run.status if run.status and is_final(run.status) else "stopping"
