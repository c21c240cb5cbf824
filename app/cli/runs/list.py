"""rapidbridge runs list."""

import json
from datetime import datetime
from typing import Any

import click

from app.cli.common.clients import JSON_OPTION
from app.cli.common.output import replace_control_chars
from app.cli.common.tables import format_table
from app.cli.common.times import parse_time_option
from app.cli.runs.formatting import format_status, format_verdict, run_as_json
from app.config.settings import read_environment, read_settings
from app.database.engine import Database, open_database
from app.runs.reconciliation import Reconciliation, reconcile_counts
from app.store.run_totals import NO_RUN, RunTotals, read_run_totals
from app.store.runs import Runs, StoredRun

_FILTER_COLUMNS = {
    "status": "status",
    "job": "sync_job_id",
    "account": "integrated_account_id",
    "environment": "environment_id",
}


@click.command(name="list")
@click.option("--status", help="Those in this status: running, completed, failed, stopped, refused, …")
@click.option("--job", help="Those of this sync job.")
@click.option("--account", help="Those of this integrated account.")
@click.option("--environment", help="Those of this environment.")
@click.option(
    "--since", callback=parse_time_option, help="Those first heard of since then: 12h, 7d, 2026-11-25T08:00."
)
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most."
)
@JSON_OPTION
def list_runs(since: datetime | None, limit: int, *, as_json: bool, **filters: Any) -> None:
    """List runs, the newest first: what arrived of each, and whether that is all.

    \b
    Example:
      rapidbridge runs list --since 1d --status failed
    """
    store = open_database(read_settings(read_environment()).database_url, interactive=True)
    conditions = {_FILTER_COLUMNS[name]: value for name, value in filters.items() if value}
    if conditions.get("status") == "unknown":
        # How a run is shown of which only batches came.
        conditions["status"] = ""
    reconciled_runs = reconcile_runs(store, Runs(store).find_runs(conditions, since=since, limit=limit))
    no_run_totals = read_run_totals(store, [NO_RUN])[NO_RUN]
    if as_json:
        click.echo(
            json.dumps(
                {
                    "runs": [run_as_json(*pair) for pair in reconciled_runs],
                    "no_run": _count_batches(no_run_totals),
                },
                default=str,
            )
        )
        return
    rows = [
        (
            replace_control_chars(run.sync_job_run_id),
            f"{run.first_seen_at:%m-%d %H:%M}",
            format_status(run),
            sum(line.arrived for line in reconciliation.resources),
            reconciliation.verdict,
        )
        for run, reconciliation in reconciled_runs
    ]
    head, *lines = format_table(("run", "seen (UTC)", "status", "records", "verdict"), rows)
    click.echo(head)
    for line, (_, reconciliation) in zip(lines, reconciled_runs, strict=True):
        click.echo(line.removesuffix(reconciliation.verdict) + format_verdict(reconciliation))
    if not rows:
        click.echo("No run." if not (conditions or since) else "No such run.")
    if batches := _count_batches(no_run_totals)["batches"]:
        click.echo(
            f"{batches:,} batches with {_count_batches(no_run_totals)['records']:,} records name no run."
        )


def reconcile_runs(store: Database, runs: list[StoredRun]) -> list[tuple[StoredRun, Reconciliation]]:
    """Return runs, each with its account."""
    totals = read_run_totals(store, [run.sync_job_run_id for run in runs])
    return [(run, reconcile_counts(run, totals[run.sync_job_run_id])) for run in runs]


def _count_batches(totals: RunTotals) -> dict[str, int]:
    return {
        "batches": sum(group.batches for group in totals.batches),
        "records": sum(group.records for group in totals.batches),
    }
