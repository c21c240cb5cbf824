"""rapidbridge runs show."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click

from app.cli.common.clients import JSON_OPTION, normalize_run_ids
from app.cli.common.output import format_time, replace_control_chars
from app.cli.runs.formatting import format_status, format_verdict, resource_lines, run_as_json
from app.cli.runs.list import reconcile_runs
from app.config.settings import read_environment, read_settings
from app.database.engine import open_database
from app.runs.reconciliation import Reconciliation
from app.store.notifications import Notification, Notifications
from app.store.runs import Runs, StoredRun

_WIDTH = 9
_MAX_NOTIFICATIONS = 50


@click.command()
@click.argument("run", metavar="ID", callback=normalize_run_ids)
@JSON_OPTION
def show(run: str, *, as_json: bool) -> None:
    """Show a run: where it stands, and what became of its records.

    \b
    Example:
      rapidbridge runs show 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5
    """
    store = open_database(read_settings(read_environment()).database_url, interactive=True)
    known = Runs(store).get(run)
    if known is None:
        hint = f"To ask Truto: rapidbridge runs reconcile {run}"
        click.echo(f"Nothing of run {run} has ever arrived here. {hint}", err=True)
        sys.exit(1)
    [(known, reconciliation)] = reconcile_runs(store, [known])
    history = Notifications(store).for_subject(run, limit=_MAX_NOTIFICATIONS)
    if as_json:
        output = run_as_json(known, reconciliation) | {
            "history": [asdict(notification) for notification in history]
        }
        click.echo(json.dumps(output, default=str))
        return
    for line in (*run_lines(known, reconciliation), *_history_lines(history)):
        click.echo(line)


def run_lines(run: StoredRun, reconciliation: Reconciliation) -> Iterator[str]:
    """Yield a run as `show` prints it."""
    head = click.style(f"run {replace_control_chars(run.sync_job_run_id)}", bold=True)
    yield f"{head}  {format_status(run)}, {format_verdict(reconciliation)}"
    fields = {
        "job": replace_control_chars(run.sync_job_id),
        "account": replace_control_chars(run.integrated_account_id),
        "webhook": replace_control_chars(run.webhook_id),
        "seen": f"{format_time(run.first_seen_at)} to {format_time(run.last_seen_at)} UTC",
        "settled": f"{format_time(run.reconciled_at)} UTC" if run.reconciled_at else "",
        "refused": replace_control_chars(run.refusal_reason),
        "stop": _format_stop(run),
    }
    yield from (f"  {name:{_WIDTH}}{value}" for name, value in fields.items() if value)
    yield from resource_lines(reconciliation)


def _history_lines(history: Sequence[Notification]) -> Iterator[str]:
    for notification in history:
        reason = notification.payload.get("reason") or notification.payload.get("verdict") or ""
        line = f"{format_time(notification.occurred_at)}  {notification.kind}  "
        yield f"  {line}{replace_control_chars(str(reason))}".rstrip()


def _format_stop(run: StoredRun) -> str:
    if not run.stop_reason:
        return ""
    sent = (
        f"Truto was asked at {format_time(run.stop_sent_at)} UTC"
        if run.stop_sent_at
        else "Truto was not asked"
    )
    return f"{replace_control_chars(run.stop_reason)}; {sent}"
