"""rapidbridge runs show."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.ids import RUN_ID, exit_run_not_found
from app.cli.common.options import json_option
from app.cli.common.output import format_time, print_json, replace_control_chars
from app.cli.runs.formatting import run_as_json, run_lines
from app.clock import utc_now
from app.runs.reconcile import reconcile_stored_runs
from app.store.notifications import Notification, Notifications
from app.store.runs import Runs

_MAX_NOTIFICATIONS = 50


@click.command()
@click.argument("run_id", metavar="ID", type=RUN_ID)
@json_option
def show(run_id: str, *, as_json: bool) -> None:
    """Show a run, its records by resource and its history.

    ID may be shortened to its first characters.

    \b
    Example:
      rapidbridge runs show 1f276317
    """
    database = open_interactive_database()
    run = Runs(database).get(run_id)
    if run is None:
        exit_run_not_found(run_id, click.get_current_context())
    [(run, reconciliation)] = reconcile_stored_runs(database, [run], now=utc_now())
    history = Notifications(database).for_subject(run_id, limit=_MAX_NOTIFICATIONS)
    if as_json:
        print_json(run_as_json(run, reconciliation) | {"history": [asdict(item) for item in history]})
        return
    for line in (*run_lines(run, reconciliation), *_history_lines(history)):
        click.echo(line)


def _history_lines(history: Sequence[Notification]) -> Iterator[str]:
    for notification in history:
        reason = notification.payload.get("reason") or notification.payload.get("verdict") or ""
        line = f"{format_time(notification.occurred_at)}  {notification.kind}  "
        yield f"  {line}{replace_control_chars(str(reason))}".rstrip()
