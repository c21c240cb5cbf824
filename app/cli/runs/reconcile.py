"""rapidbridge runs reconcile."""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import click

from app.cli import EXIT_UNREACHABLE
from app.cli.common.clients import JSON_OPTION, normalize_run_ids, open_optional_truto_api
from app.cli.common.progress import progress_bar
from app.cli.common.times import parse_time_option
from app.cli.runs.formatting import run_as_json
from app.cli.runs.show import run_lines
from app.config.settings import read_environment, read_settings
from app.database.engine import Database, open_database
from app.errors import TrutoRefused, TrutoUnavailable
from app.runs.reconcile import TrutoError, reconcile_run
from app.runs.reconciliation import Reconciliation
from app.runs.refetch import refetch_run
from app.runs.refresh import RunRefresher
from app.store.runs import Runs, StoredRun
from app.truto.client import TrutoApi

_DEFAULT_PERIOD = timedelta(days=1)
_MAX_RUNS = 100_000


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[ID...]", callback=normalize_run_ids)
@click.option(
    "--since",
    callback=parse_time_option,
    help="Every run first heard of since then: 12h, 7d, 2026-11-25T08:00.  [default without an ID: 1d]",
)
@click.option("--refetch", "is_refetched", is_flag=True, help="Have Truto run again what is incomplete.")
@click.option("--yes", is_flag=True, help="Do not ask before that.")
@JSON_OPTION
def reconcile(
    run_ids: Sequence[str], since: datetime | None, *, is_refetched: bool, yes: bool, as_json: bool
) -> None:
    """Compare what Truto fetched with what arrived, and that with what the sinks hold.

    With TRUTO_API_TOKEN, Truto is asked for what its events left out, and its log for what it gave up. Exits
    1 if records are missing, or kept out of a sink.

    \b
    Examples:
      rapidbridge runs reconcile 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5
      rapidbridge runs reconcile --since 12h --json
    """
    if run_ids and since:
        raise click.UsageError("Name runs, or a time: not both.")
    settings = read_settings(read_environment(), required=("TRUTO_API_TOKEN",) if is_refetched else ())
    store, now = open_database(settings.database_url, interactive=True), datetime.now(UTC)
    with open_optional_truto_api(settings) as api:
        refresher = RunRefresher(Runs(store), api) if api else None
        errors: list[TrutoError] = []
        if run_ids:
            runs = _load_named_runs(store, run_ids, refresher, errors)
        else:
            runs = Runs(store).find_runs({}, since=since or now - _DEFAULT_PERIOD, limit=_MAX_RUNS)
        with progress_bar("comparing runs", len(runs)) as bar:
            reconciled_runs = []
            for run in runs:
                # Who does not answer is not asked for every run.
                active_refresher = None if _is_unreachable(errors) else refresher
                reconciled_runs.append(
                    reconcile_run(store, run, active_refresher, now=now, on_error=errors.append)
                )
                bar.update(1)
        if as_json:
            click.echo(json.dumps([run_as_json(*pair) for pair in reconciled_runs], default=str))
        else:
            _print_reconciliations(reconciled_runs, in_full=bool(run_ids))
        incomplete_runs = [
            run for run, reconciliation in reconciled_runs if reconciliation.verdict == "incomplete"
        ]
        if is_refetched and incomplete_runs and api:
            _refetch_runs(api, incomplete_runs, yes=yes)
    for message in dict.fromkeys(map(str, errors)):
        click.echo(message, err=True)
    if len(reconciled_runs) < len(set(run_ids)) or any(
        reconciliation.has_gaps for _, reconciliation in reconciled_runs
    ):
        sys.exit(1)
    if errors:
        sys.exit(EXIT_UNREACHABLE if _is_unreachable(errors) else 1)


def _is_unreachable(errors: Sequence[TrutoError]) -> bool:
    return any(isinstance(error, TrutoUnavailable) for error in errors)


def _load_named_runs(
    store: Database, run_ids: Sequence[str], refresher: RunRefresher | None, errors: list[TrutoError]
) -> list[StoredRun]:
    stored_runs, named_runs = Runs(store), []
    for run_id in dict.fromkeys(run_ids):
        run = stored_runs.get(run_id)
        try:
            run = run or (refresher.refresh(run_id, now=datetime.now(UTC)) if refresher else None)
        except (TrutoRefused, TrutoUnavailable) as error:
            errors.append(error)
        if run:
            named_runs.append(run)
        elif not errors:
            hint = "" if refresher else "; with TRUTO_API_TOKEN, Truto would be asked"
            click.echo(f"Nothing of run {run_id} has ever arrived here{hint}.", err=True)
    return named_runs


def _print_reconciliations(
    reconciled_runs: Sequence[tuple[StoredRun, Reconciliation]], *, in_full: bool
) -> None:
    """Print every run that is named, and of all others those that leave something to be said."""
    for run, reconciliation in reconciled_runs:
        if in_full or reconciliation.has_gaps:
            for line in run_lines(run, reconciliation):
                click.echo(line)
            click.echo()
    click.echo(", ".join(_summary_parts(reconciled_runs)) + "." if reconciled_runs else "No run to compare.")


def _summary_parts(reconciled_runs: Sequence[tuple[StoredRun, Reconciliation]]) -> Iterator[str]:
    yield f"{len(reconciled_runs):,} {'run' if len(reconciled_runs) == 1 else 'runs'}"
    verdicts: dict[str, int] = {}
    for _, reconciliation in reconciled_runs:
        verdicts[reconciliation.verdict] = verdicts.get(reconciliation.verdict, 0) + 1
    yield from (f"{number:,} {verdict}" for verdict, number in sorted(verdicts.items()))
    missing = sum(line.missing for _, reconciliation in reconciled_runs for line in reconciliation.resources)
    yield f"{missing:,} records missing"


def _refetch_runs(api: TrutoApi, runs: Sequence[StoredRun], *, yes: bool) -> None:
    what = "this run" if len(runs) == 1 else f"these {len(runs)} runs"
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("Nobody is there to confirm: pass --yes to have it all fetched again.")
        click.confirm(
            f"Have Truto fetch everything of {what} again? That is a full sync of each.", abort=True
        )
    for run in runs:
        try:
            again = refetch_run(api, run)
        except TrutoRefused as error:
            click.echo(f"{run.sync_job_run_id}  not fetched again: {error}", err=True)
        else:
            click.echo(f"{run.sync_job_run_id}  fetched again by run {again.id}", err=True)
