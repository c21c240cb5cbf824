"""Command `rapidbridge demo`: simulated runs, compared row by row."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import click

from app.checks.simulated_runs import RunsComparison, compare_runs
from app.cli.common.options import json_option
from app.cli.common.output import print_json
from app.cli.common.program import name_program
from app.cli.common.progress import progress_bar
from app.cli.common.tables import format_table
from app.cli.local.ports import find_free_port
from app.cli.local.service import running_service
from app.cli.local.temporary_folder import temporary_folder
from app.cli.simulate import simulate_with_progress
from app.database.engine import Database, open_database
from app.plural import format_count
from app.simulator.plan import Plan
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.truto.target_url import WEBHOOK_PATH

_STALL_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 0.2
_COLUMNS = ("resource", "method", "fetched", "arrived", "written", "dead", "missing")


@click.command()
@click.option(
    "--records",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="Total number of records in all runs.",
)
@json_option
@click.option("--keep", is_flag=True, help="Keep the folder with the database and the log.")
def demo(records: int, *, as_json: bool, keep: bool) -> None:
    """Simulate runs against a temporary receiver and compare every row.

    The runs include child resources, a run stopped midway, duplicates, events out of order, pages after the
    end of their run, single and batched record errors, signatures in base64 and hex, and forged ones. The
    receiver runs in a temporary folder.

    Exit codes: 0 if nothing is missing, duplicated or different; else 1.
    """
    with temporary_folder("rapidbridge-demo-", keep=keep) as folder:
        if keep:
            click.echo(f"The database and the log are kept in {folder}", err=True)
        comparison = _run_demo(folder, records)
    print_json(comparison.as_json()) if as_json else _print_comparison(comparison)
    if not comparison.is_ok:
        for problem in comparison.problems:
            click.secho(problem, fg="red", err=True)
        hint = "To inspect the database and the log, run: rapidbridge demo --keep"
        click.echo(name_program(hint), err=True)
        sys.exit(1)


def _run_demo(folder: Path, records: int) -> RunsComparison:
    port, secret = find_free_port(), str(uuid4())
    database_url = f"sqlite:///{folder}/rapidbridge.db"
    settings = {"DATABASE_URL": database_url, "PORT": str(port), "TRUTO_WEBHOOK_SECRET": secret}
    database = open_database(database_url)
    migrate(database)
    plans = _make_plans(records, f"http://127.0.0.1:{port}{WEBHOOK_PATH}", secret)
    with running_service(settings, folder=folder):
        started = time.monotonic()
        reports = simulate_with_progress(plans)
        _wait_until_settled(database)
        duration_s = time.monotonic() - started
    comparison = compare_runs(database, database_url, reports, duration_s)
    database.close()
    return comparison


def _make_plans(records: int, url: str, secret: str) -> list[Plan]:
    """Divide the records among runs with different faults."""
    crm = (("crm/contacts", "list"), ("crm/accounts", "list"))
    tickets = (("ticketing/tickets", "list"), ("ticketing/comments", "list"))
    main_records, other_records = records // 2, records // 6
    plan = Plan(url, secret, "demo", resources=crm, duplicates=0.1, reordering=0.2, changes=0.1, overtaken=2)
    return [
        # Two runs at a time, on two accounts: the third sends the records of the first again.
        replace(plan, records=main_records, runs=3, accounts=2, parallel=2, record_errors=6, forged=9),
        replace(plan, seed="stopped", records=other_records, batch_size=20, stop_after=0.5, record_errors=3),
        replace(
            plan,
            seed="tickets",
            records=records - main_records - other_records,
            resources=tickets,
            record_errors=40,
            batched_errors=True,
            encoding="hex",
            with_format=False,
        ),
    ]


def _wait_until_settled(database: Database) -> None:
    """Wait until no delivery is pending, or their number has not changed for a minute."""
    inbox = Inbox(database)
    pending, changed_at = inbox.count_by_state().get("pending", 0), time.monotonic()
    with progress_bar("settling deliveries", pending) as bar:
        while pending and time.monotonic() - changed_at < _STALL_TIMEOUT_S:
            time.sleep(_POLL_INTERVAL_S)
            now_pending = inbox.count_by_state().get("pending", 0)
            if now_pending != pending:
                bar.update(pending - now_pending)
                pending, changed_at = now_pending, time.monotonic()


def _print_comparison(comparison: RunsComparison) -> None:
    for run in comparison.runs:
        head = click.style(f"run {run.sync_job_run_id}", bold=True)
        click.echo(f"{head}  {run.status}, {format_count(run.record_errors, 'record error')}")
        rows = [[getattr(counts, name) for name in _COLUMNS] for counts in run.resources]
        for line in format_table(_COLUMNS, rows, indent=2):
            click.echo(line)
        click.echo()
    counts = ", ".join(f"{number:,} {status}" for status, number in comparison.deliveries.items())
    click.echo(f"Deliveries: {counts}.")
    click.echo(
        f"{format_count(comparison.compared_rows, 'row')} compared with the records sent; "
        f"{comparison.records_per_second:,.0f} records/s."
    )
    if comparison.is_ok:
        message = "Nothing is missing, duplicated or different."
        click.secho(message, bold=True, fg="green")
