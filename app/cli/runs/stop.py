"""rapidbridge runs stop."""

import sys
from collections.abc import Sequence
from dataclasses import asdict

import click

from app.cli.common.audit import audit_at_truto
from app.cli.common.clients import open_truto_api
from app.cli.common.ids import TRUTO_RUN_ID
from app.cli.common.options import json_option, yes_option
from app.cli.common.output import print_json
from app.cli.common.prompts import confirm
from app.errors import TrutoRefused
from app.runs.control import StopResult, stop_run
from app.runs.stop_request import STOP_ACTION
from app.truto.client import TrutoClient


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="ID...", type=TRUTO_RUN_ID)
@yes_option
@json_option
def stop(run_ids: Sequence[str], *, yes: bool, as_json: bool) -> None:
    """Stop runs at Truto.

    Truto fetches and sends no more of their records. Records that were already sent stay. A run that has
    ended is not changed. The id of a run in the database may be shortened to its first characters.

    Exits 1 if a run could not be stopped.

    \b
    Example:
      rapidbridge runs stop 1f276317
    """
    with open_truto_api() as api:
        if not yes:
            _show_runs(api, run_ids)
        confirm("Stop this run?" if len(run_ids) == 1 else f"Stop these {len(run_ids)} runs?", yes=yes)
        results: list[StopResult] = []
        try:
            for run_id in run_ids:
                results.append(stop_run(api, run_id))
                if results[-1].is_changed:
                    audit_at_truto(STOP_ACTION, run_id)
                if not as_json:
                    _print_result(results[-1])
        finally:
            # Truto may become unreachable: the runs that were stopped before are printed all the same.
            if as_json:
                print_json([asdict(result) for result in results])
    if any(not result.is_stopped for result in results):
        sys.exit(1)


def _show_runs(api: TrutoClient, run_ids: Sequence[str]) -> None:
    if not sys.stdin.isatty():
        return
    for run_id in run_ids:
        try:
            run = api.get_run(run_id)
            line = f"{run.status}, job {run.sync_job_id}, account {run.integrated_account_id}"
        except TrutoRefused as error:
            line = str(error)
        click.echo(f"{run_id}  {line}", err=True)


def _print_result(result: StopResult) -> None:
    cells = (result.sync_job_run_id, result.status or "unknown", result.message)
    click.echo("  ".join(cells).rstrip())
