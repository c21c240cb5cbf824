"""rapidbridge runs reconcile."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import click

from app.cli import EXIT_UNREACHABLE
from app.cli.common.audit import audit
from app.cli.common.clients import open_interactive_database, open_optional_truto_api
from app.cli.common.ids import RUN_ID
from app.cli.common.options import json_option, yes_option
from app.cli.common.output import print_json, replace_control_chars
from app.cli.common.progress import progress_bar
from app.cli.common.prompts import confirm
from app.cli.common.times import parse_time_option
from app.cli.runs.formatting import name_verdict, run_as_json, run_lines
from app.clock import utc_now
from app.config.settings import read_environment, read_settings
from app.database.engine import Database
from app.errors import OperationRefused, TrutoRefused
from app.plural import format_count
from app.runs.batch_reconcile import BatchReconciler, ReconciledRun
from app.runs.refetch import refetch_run
from app.runs.refresh import RunRefresher
from app.store.runs import Runs, StoredRun
from app.truto.client import TrutoClient

_DEFAULT_PERIOD = timedelta(days=1)
_MAX_RUNS = 100_000


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[ID]...", type=RUN_ID)
@click.option(
    "--since",
    metavar="TIME",
    callback=parse_time_option,
    help="All runs first seen at or after: 12h, 7d, 2026-11-25.  [default without ID: 1d]",
)
@click.option("--refetch", "is_refetched", is_flag=True, help="Start a new run for every incomplete run.")
@yes_option
@json_option
def reconcile(
    run_ids: Sequence[str], since: datetime | None, *, is_refetched: bool, yes: bool, as_json: bool
) -> None:
    """Compare records fetched, received and written.

    With TRUTO_API_TOKEN, missing numbers are read from Truto's API, and the reasons of gaps from its log.
    ID may be shortened to its first characters.

    Exits 1 if records are missing or were not written to a sink.

    \b
    Examples:
      rapidbridge runs reconcile 1f276317
      rapidbridge runs reconcile --since 12h --json
    """
    if run_ids and since:
        raise click.UsageError("Pass ids or --since, not both.")
    settings = read_settings(read_environment(), required=("TRUTO_API_TOKEN",) if is_refetched else ())
    database, now = open_interactive_database(settings), utc_now()
    with open_optional_truto_api(settings) as api:
        reconciler = BatchReconciler(database, RunRefresher(Runs(database), api) if api else None)
        if run_ids:
            hint = "" if api else " Set TRUTO_API_TOKEN to ask Truto."
            runs = reconciler.load_runs(
                run_ids, now=now, on_unknown=lambda run_id: _print_unknown(run_id, hint)
            )
        else:
            runs = Runs(database).find_runs({}, since=since or now - _DEFAULT_PERIOD, limit=_MAX_RUNS)
        reconciled_runs: list[ReconciledRun] = []
        with progress_bar("Reconciling runs", len(runs)) as bar:
            for pair in reconciler.reconcile(runs, now=now):
                reconciled_runs.append(pair)
                bar.update(1)
        if as_json:
            print_json([run_as_json(*pair) for pair in reconciled_runs])
        else:
            _print_reconciliations(reconciled_runs, only_gaps=not run_ids)
        incomplete_runs = [
            run for run, reconciliation in reconciled_runs if reconciliation.verdict == "incomplete"
        ]
        if is_refetched and incomplete_runs and api:
            _refetch_runs(database, api, incomplete_runs, yes=yes)
    for message in dict.fromkeys(map(str, reconciler.errors)):
        click.echo(message, err=True)
    if len(reconciled_runs) < len(set(run_ids)) or any(
        reconciliation.has_gaps for _, reconciliation in reconciled_runs
    ):
        sys.exit(1)
    if reconciler.errors:
        sys.exit(EXIT_UNREACHABLE if reconciler.is_truto_unreachable else 1)


def _print_unknown(run_id: str, hint: str) -> None:
    click.echo(f"No event of run {replace_control_chars(run_id)} was received.{hint}", err=True)


def _print_reconciliations(reconciled_runs: Sequence[ReconciledRun], *, only_gaps: bool) -> None:
    for run, reconciliation in reconciled_runs:
        if reconciliation.has_gaps or not only_gaps:
            for line in run_lines(run, reconciliation):
                click.echo(line)
            click.echo()
    click.echo(
        ", ".join(_summary_parts(reconciled_runs)) + "." if reconciled_runs else "No run to reconcile."
    )


def _summary_parts(reconciled_runs: Sequence[ReconciledRun]) -> Iterator[str]:
    yield format_count(len(reconciled_runs), "run")
    verdicts = Counter(reconciliation.verdict for _, reconciliation in reconciled_runs)
    yield from (f"{number:,} {name_verdict(verdict)}" for verdict, number in sorted(verdicts.items()))
    resources = [counts for _, reconciliation in reconciled_runs for counts in reconciliation.resources]
    yield f"{format_count(sum(counts.missing for counts in resources), 'record')} missing"
    if in_flight := sum(counts.in_flight for counts in resources):
        yield f"{in_flight:,} in flight"


def _refetch_runs(database: Database, api: TrutoClient, runs: Sequence[StoredRun], *, yes: bool) -> None:
    confirm(f"Fetch all records of {format_count(len(runs), 'run')} again, as full syncs?", yes=yes)
    for run in runs:
        audit(database, "run.refetch", run.sync_job_run_id)
        try:
            new_run = refetch_run(api, run)
        except (TrutoRefused, OperationRefused) as error:
            click.echo(f"{run.sync_job_run_id}  not fetched again: {error}", err=True)
        else:
            click.echo(f"{run.sync_job_run_id}  fetched again by run {new_run.id}", err=True)
