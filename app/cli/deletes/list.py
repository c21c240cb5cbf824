"""rapidbridge deletes list."""

import sys
from dataclasses import asdict

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.messages import format_message
from app.cli.common.options import json_option
from app.cli.common.output import format_time, print_json, shorten
from app.cli.common.tables import format_table
from app.runs.delete_checks import advise_on_check, explain_check
from app.store.delete_checks import DeleteCheck, DeleteChecks, DeleteCheckState

_HEADERS = ("run", "begun (UTC)", "resource", "sink", "state", "rows")
_MAX_NAME_WIDTH = 30


@click.command(name="list")
@click.option("--held", "is_held", is_flag=True, help="Only those that are held back.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The number to list."
)
@json_option
def list_deletes(limit: int, *, is_held: bool, as_json: bool) -> None:
    """List the marked rows of runs, and marks that are held back.

    The exit code is 1 if one of them is held back. `rows` is the number of rows that are marked, or that a
    mark would change.

    \b
    Examples:
      rapidbridge deletes list
      rapidbridge deletes list --held --json
    """
    checks = DeleteChecks(open_interactive_database()).list_newest(limit=limit, is_held=is_held)
    if as_json:
        print_json({"deletes": [asdict(check) | {"meaning": explain_check(check)} for check in checks]})
    else:
        for line in format_table(_HEADERS, list(map(_build_row, checks))) if checks else ():
            click.echo(line)
        for check in checks:
            if check.reason:
                _print_reason(check)
        if not checks:
            click.echo("No deletes.")
    if any(check.state == DeleteCheckState.HELD_BACK for check in checks):
        sys.exit(1)


def _build_row(check: DeleteCheck) -> tuple[str, ...]:
    rows = check.unseen_rows if check.marked_rows is None else check.marked_rows
    return (
        shorten(check.sync_job_run_id, 36),
        format_time(check.began_at),
        shorten(check.resource, _MAX_NAME_WIDTH),
        shorten(check.sink, _MAX_NAME_WIDTH),
        check.state.replace("_", " "),
        "-" if rows is None else f"{rows:,}",
    )


def _print_reason(check: DeleteCheck) -> None:
    subject = shorten(f"{check.sync_job_run_id} {check.resource} {check.sink}", 100)
    click.echo(format_message(f"{subject}: {explain_check(check)}"))
    if check.state == DeleteCheckState.HELD_BACK:
        click.echo(format_message(advise_on_check(check)))
