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

from app.cli.common.progress import progress_bar
from app.cli.common.tables import table_lines
from app.cli.findings import Findings, examine
from app.cli.local.ports import free_port
from app.cli.local.service import running_service
from app.cli.simulate import play_with_progress
from app.database.engine import Store, open_store
from app.simulator.plan import Plan
from app.store.inbox import Inbox
from app.store.migrate import migrate

_STALLED_AFTER_S = 60.0
_POLL_S = 0.2
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
    with _folder(keep=keep) as folder:
        findings = _prove(folder, records)
    click.echo(json.dumps(findings.as_json())) if as_json else _print(findings)
    if not findings.is_fine:
        for problem in findings.problems:
            click.secho(problem, fg="red", err=True)
        click.echo("With --keep, the folder stays, with its database and the processes' log.", err=True)
        sys.exit(1)


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    if keep:
        folder = Path(tempfile.mkdtemp(prefix="rapidbridge-demo-"))
        click.echo(f"Everything is kept in {folder}", err=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="rapidbridge-demo-") as name:
            yield Path(name)


def _prove(folder: Path, records: int) -> Findings:
    port, secret = free_port(), str(uuid4())
    database_url = f"sqlite:///{folder}/rapidbridge.db"
    settings = {"DATABASE_URL": database_url, "PORT": str(port), "TRUTO_WEBHOOK_SECRET": secret}
    store = open_store(database_url)
    migrate(store)
    plans = _plans(records, f"http://127.0.0.1:{port}/webhooks/truto", secret)
    with running_service(settings, folder=folder):
        started = time.monotonic()
        reports = play_with_progress(plans)
        _wait_until_settled(store)
        took_s = time.monotonic() - started
    return examine(store, database_url, reports, took_s)


def _plans(records: int, url: str, secret: str) -> list[Plan]:
    """Share the records out among runs that go wrong in different ways."""
    crm = (("crm/contacts", "list"), ("crm/accounts", "list"))
    tickets = (("ticketing/tickets", "list"), ("ticketing/comments", "list"))
    most, some = records // 2, records // 6
    plan = Plan(url, secret, "demo", resources=crm, duplicates=0.1, reordering=0.2, changes=0.1)
    return [
        # Two runs at a time; the third meets the first one's records again.
        replace(plan, records=most, runs=3, accounts=2, parallel=2, record_errors=6, forged=9),
        replace(plan, seed="stopped", records=some, batch_size=20, stop_after=0.5, record_errors=3),
        replace(
            plan,
            seed="tickets",
            records=records - most - some,
            resources=tickets,
            record_errors=40,
            batched_errors=True,
            encoding="base64",
            with_format=False,
        ),
    ]


def _wait_until_settled(store: Store) -> None:
    """Return when nothing is pending any more, or when that has not changed for a minute."""
    inbox = Inbox(store)
    pending, changed_at = inbox.count().get("pending", 0), time.monotonic()
    with progress_bar("settling deliveries", pending) as bar:
        while pending and time.monotonic() - changed_at < _STALLED_AFTER_S:
            time.sleep(_POLL_S)
            now_pending = inbox.count().get("pending", 0)
            if now_pending != pending:
                bar.update(pending - now_pending)
                pending, changed_at = now_pending, time.monotonic()


def _print(findings: Findings) -> None:
    for run in findings.runs:
        head = click.style(f"run {run.sync_job_run_id}", bold=True)
        click.echo(f"{head}  {run.status}, {run.record_errors} record errors")
        rows = [[getattr(line, name) for name in _COLUMNS] for line in run.resources]
        for line in table_lines(_COLUMNS, rows, indent=2):
            click.echo(line)
        click.echo()
    counts = ", ".join(f"{number:,} {word}" for word, number in findings.deliveries.items())
    click.echo(f"Deliveries: {counts}.")
    click.echo(f"{findings.rows:,} rows compared with what was sent; {findings.per_second:,.0f} records/s.")
    if findings.is_fine:
        message = "Nothing is missing, nothing is doubled, nothing is unexplained."
        click.secho(message, bold=True, fg="green")
