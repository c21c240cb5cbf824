"""rapidbridge runs list."""

import json
from datetime import datetime
from typing import Any

import click

from app.cli.common.output import printable
from app.cli.common.tables import table_lines
from app.cli.common.times import moment
from app.cli.runs.asking import AS_JSON
from app.cli.runs.telling import as_json as told_as_json
from app.cli.runs.telling import status_of, verdict_of
from app.config.settings import read_environment, read_settings
from app.database.engine import Store, open_store
from app.runs.reconciliation import Account, account_for
from app.store.run_totals import NO_RUN, Figures, read_figures
from app.store.runs import KnownRun, RunBook

_FILTERS = {
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
@click.option("--since", callback=moment, help="Those first heard of since then: 12h, 7d, 2026-11-25T08:00.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most."
)
@AS_JSON
def list_runs(since: datetime | None, limit: int, *, as_json: bool, **filters: Any) -> None:
    """List runs, the newest first: what arrived of each, and whether that is all.

    \b
    Example:
      rapidbridge runs list --since 1d --status failed
    """
    store = open_store(read_settings(read_environment()).database_url, for_person=True)
    wanted = {_FILTERS[name]: value for name, value in filters.items() if value}
    if wanted.get("status") == "unknown":
        # How a run is shown of which only batches came.
        wanted["status"] = ""
    found = account_for_all(store, RunBook(store).find(wanted, since=since, most=limit))
    nameless = read_figures(store, [NO_RUN])[NO_RUN]
    if as_json:
        click.echo(
            json.dumps(
                {"runs": [told_as_json(*each) for each in found], "no_run": _count(nameless)}, default=str
            )
        )
        return
    rows = [
        (
            printable(run.sync_job_run_id),
            f"{run.first_seen_at:%m-%d %H:%M}",
            status_of(run),
            sum(line.arrived for line in account.lines),
            account.verdict,
        )
        for run, account in found
    ]
    head, *lines = table_lines(("run", "seen (UTC)", "status", "records", "verdict"), rows)
    click.echo(head)
    for line, (_, account) in zip(lines, found, strict=True):
        click.echo(line.removesuffix(account.verdict) + verdict_of(account))
    if not rows:
        click.echo("No run." if not (wanted or since) else "No such run.")
    if batches := _count(nameless)["batches"]:
        click.echo(f"{batches:,} batches with {_count(nameless)['records']:,} records name no run.")


def account_for_all(store: Store, runs: list[KnownRun]) -> list[tuple[KnownRun, Account]]:
    """Return runs, each with its account."""
    figures = read_figures(store, [run.sync_job_run_id for run in runs])
    return [(run, account_for(run, figures[run.sync_job_run_id])) for run in runs]


def _count(figures: Figures) -> dict[str, int]:
    return {
        "batches": sum(group.batches for group in figures.arrived),
        "records": sum(group.records for group in figures.arrived),
    }
