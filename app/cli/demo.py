"""rapidbridge demo: the whole service against simulated runs, and the proof that nothing is missing."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import click

from app.checks.simulated_runs import RunsComparison, compare_runs
from app.cli.common.progress import progress_bar
from app.cli.common.tables import format_table
from app.cli.local.ports import find_free_port
from app.cli.local.service import running_service
from app.cli.simulate import simulate_with_progress
from app.database.engine import Database, open_database
from app.simulator.plan import Plan
from app.store.inbox import Inbox
from app.store.migrate import migrate

_STALL_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 0.2
_COLUMNS = ("resource", "method", "fetched", "arrived", "written", "dead", "missing")


@click.command()
@click.option(
    "--records", type=click.IntRange(1), default=2000, show_default=True, help="Of all runs together."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--keep", is_flag=True, help="Leave the folder with its database and log, and say where it is.")
def demo(records: int, *, as_json: bool, keep: bool) -> None:
    """Start everything in a temporary folder, play Truto against it, and compare every row.

    Among the runs: child resources, one stopped midway, duplicates, disorder, single and batched errors,
    forged signatures. Exits 1 if anything is missing, doubled or unexplained.
    """
    with _open_demo_folder(keep=keep) as folder:
        comparison = _run_demo(folder, records)
    click.echo(json.dumps(comparison.as_json())) if as_json else _print_comparison(comparison)
    if not comparison.is_ok:
        for problem in comparison.problems:
            click.secho(problem, fg="red", err=True)
        click.echo("With --keep, the folder stays, with its database and the processes' log.", err=True)
        sys.exit(1)


@contextmanager
def _open_demo_folder(*, keep: bool) -> Iterator[Path]:
    if keep:
        folder = Path(tempfile.mkdtemp(prefix="rapidbridge-demo-"))
        click.echo(f"Everything is kept in {folder}", err=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="rapidbridge-demo-") as name:
            yield Path(name)


def _run_demo(folder: Path, records: int) -> RunsComparison:
    port, secret = find_free_port(), str(uuid4())
    database_url = f"sqlite:///{folder}/rapidbridge.db"
    settings = {"DATABASE_URL": database_url, "PORT": str(port), "TRUTO_WEBHOOK_SECRET": secret}
    store = open_database(database_url)
    migrate(store)
    plans = _make_plans(records, f"http://127.0.0.1:{port}/webhooks/truto", secret)
    with running_service(settings, folder=folder):
        started = time.monotonic()
        reports = simulate_with_progress(plans)
        _wait_until_settled(store)
        took_s = time.monotonic() - started
    return compare_runs(store, database_url, reports, took_s)


def _make_plans(records: int, url: str, secret: str) -> list[Plan]:
    """Share the records out among runs that go wrong in different ways."""
    crm = (("crm/contacts", "list"), ("crm/accounts", "list"))
    tickets = (("ticketing/tickets", "list"), ("ticketing/comments", "list"))
    main_records, other_records = records // 2, records // 6
    plan = Plan(url, secret, "demo", resources=crm, duplicates=0.1, reordering=0.2, changes=0.1)
    return [
        # Two runs at a time; the third meets the first one's records again.
        replace(plan, records=main_records, runs=3, accounts=2, parallel=2, record_errors=6, forged=9),
        replace(plan, seed="stopped", records=other_records, batch_size=20, stop_after=0.5, record_errors=3),
        replace(
            plan,
            seed="tickets",
            records=records - main_records - other_records,
            resources=tickets,
            record_errors=40,
            batched_errors=True,
            encoding="base64",
            with_format=False,
        ),
    ]


def _wait_until_settled(store: Database) -> None:
    """Return when nothing is pending any more, or when that has not changed for a minute."""
    inbox = Inbox(store)
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
        click.echo(f"{head}  {run.status}, {run.record_errors} record errors")
        rows = [[getattr(line, name) for name in _COLUMNS] for line in run.resources]
        for line in format_table(_COLUMNS, rows, indent=2):
            click.echo(line)
        click.echo()
    counts = ", ".join(f"{number:,} {status}" for status, number in comparison.deliveries.items())
    click.echo(f"Deliveries: {counts}.")
    click.echo(
        f"{comparison.compared_rows:,} rows compared with what was sent; "
        f"{comparison.records_per_second:,.0f} records/s."
    )
    if comparison.is_ok:
        message = "Nothing is missing, nothing is doubled, nothing is unexplained."
        click.secho(message, bold=True, fg="green")
