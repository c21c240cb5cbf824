"""rapidbridge runs list."""

from datetime import datetime
from typing import Any

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.options import json_option
from app.cli.common.output import print_json, replace_control_chars
from app.cli.common.suggestions import suggest
from app.cli.common.tables import format_table
from app.cli.common.times import parse_time_option
from app.cli.runs.formatting import format_status, format_verdict, run_as_json
from app.clock import utc_now
from app.plural import format_count
from app.runs.reconcile import reconcile_stored_runs
from app.store.run_totals import NO_RUN, RunTotals, read_run_totals
from app.store.runs import Runs
from app.truto.runs import RUN_STATUSES

_UNKNOWN = "unknown"
_HEADERS = ("run", "seen (UTC)", "status", "records", "verdict")
_FILTER_COLUMNS = {
    "status": "status",
    "job": "sync_job_id",
    "account": "integrated_account_id",
    "environment": "environment_id",
}


@click.command(name="list")
@click.option(
    "--status", metavar="STATUS", help="Runs with this status, such as running, completed or failed."
)
@click.option("--job", metavar="ID", help="Runs of this sync job.")
@click.option("--account", metavar="ID", help="Runs of this integrated account.")
@click.option("--environment", metavar="ID", help="Runs of this Truto environment.")
@click.option(
    "--since",
    metavar="TIME",
    callback=parse_time_option,
    help="Runs first seen at or after: 12h, 7d, 2026-11-25T08:00.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Runs to list.")
@json_option
def list_runs(since: datetime | None, limit: int, *, as_json: bool, **filters: Any) -> None:
    """List runs with status, records and verdict.

    The newest run comes first. The verdict says if all records arrived.

    \b
    Example:
      rapidbridge runs list --since 1d --status failed
    """
    database = open_interactive_database()
    conditions = {_FILTER_COLUMNS[name]: value for name, value in filters.items() if value}
    if status := conditions.get("status"):
        # The status is empty until a lifecycle event of the run arrives.
        conditions["status"] = "" if status == _UNKNOWN else _check_status(Runs(database), status)
    reconciled_runs = reconcile_stored_runs(
        database, Runs(database).find_runs(conditions, since=since, limit=limit), now=utc_now()
    )
    no_run = _count_batches(read_run_totals(database, [NO_RUN])[NO_RUN])
    if as_json:
        print_json({"runs": [run_as_json(*pair) for pair in reconciled_runs], "no_run": no_run})
        return
    rows = [
        (
            replace_control_chars(run.sync_job_run_id),
            f"{run.first_seen_at:%m-%d %H:%M}",
            format_status(run),
            sum(counts.arrived for counts in reconciliation.resources),
            format_verdict(reconciliation),
        )
        for run, reconciliation in reconciled_runs
    ]
    # Rows with wider gaps do not fit in 80 columns.
    for line in format_table(_HEADERS, rows, gap=1):
        click.echo(line)
    if not rows:
        click.echo("No run matches." if conditions or since else "No run.")
    if no_run["batches"]:
        batches = format_count(no_run["batches"], "batch")
        click.echo(f"Without a run: {batches} with {format_count(no_run['records'], 'record')}.")


def _check_status(runs: Runs, status: str) -> str:
    """Return a status that Truto documents or a run has; raises click.BadParameter for others."""
    known = (*RUN_STATUSES, _UNKNOWN)
    if status not in known and not runs.find_runs({"status": status}, since=None, limit=1):
        message = f"{status!r} is not one of {', '.join(known)}.{suggest(status, known)}"
        raise click.BadParameter(message, param_hint="--status")
    return status


def _count_batches(totals: RunTotals) -> dict[str, int]:
    return {
        "batches": sum(group.batches for group in totals.batches),
        "records": sum(group.records for group in totals.batches),
    }
