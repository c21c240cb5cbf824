"""rapidbridge operations show."""

import sys
from collections import Counter
from uuid import UUID

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.messages import print_message
from app.cli.common.operations import (
    OPERATION_ID,
    describe_end,
    exit_operation_not_found,
    follow_with_progress,
    format_progress,
    print_left_running,
    to_json_values,
)
from app.cli.common.options import json_option
from app.cli.common.output import format_time, print_json, replace_control_chars
from app.replay.operations import OperationRequest
from app.store.operations import Operation, OperationKind, Operations, OperationState
from app.store.replays import Replays


@click.command()
@click.argument("operation_id", metavar="ID", type=OPERATION_ID)
@click.option("--follow", "is_following", is_flag=True, help="Show the progress until the operation ends.")
@json_option
def show(operation_id: UUID, *, is_following: bool, as_json: bool) -> None:
    """Show a replay or a discard, its progress and its result.

    Exits 1 if it was cancelled or failed, or if --follow is interrupted.

    \b
    Examples:
      rapidbridge operations show 6349cea5-1998-4e14-a020-e1540fc374f7
      rapidbridge operations show 6349cea5-1998-4e14-a020-e1540fc374f7 --follow
    """
    database = open_interactive_database()
    operation = Operations(database).get(operation_id)
    if operation is None:
        exit_operation_not_found(operation_id)
    if is_following and not operation.is_finished:
        operation = follow_with_progress(database, operation)
        if not operation.is_finished:
            print_left_running(operation)
    states: Counter[str] = Counter()
    if operation.kind == OperationKind.REPLAY:
        for outcome in Replays(database).outcomes(operation.id):
            states[outcome.state] += outcome.deliveries
    if as_json:
        print_json({**to_json_values(operation), "states": dict(states)})
    else:
        _print_operation(operation, states)
    is_interrupted = is_following and not operation.is_finished
    if is_interrupted or operation.state in (OperationState.CANCELLED, OperationState.FAILED):
        sys.exit(1)


def _print_operation(operation: Operation, states: Counter[str]) -> None:
    heading = f"{operation.kind.replace('_', ' ')} {operation.id}"
    click.echo(f"{click.style(heading, bold=True)}  {operation.state}")
    origin = f"{operation.requested_by} {operation.requested_from}".strip()
    lines = {
        "requested": f"{format_time(operation.requested_at)} UTC by {origin}",
        "started": format_time(operation.started_at),
        "ended": format_time(operation.finished_at),
        "done": format_progress(operation),
        **OperationRequest.from_json(operation.request).describe(),
    }
    if states:
        lines["now"] = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
    width = max(map(len, lines))
    for name, text in lines.items():
        click.echo(replace_control_chars(f"  {name.ljust(width)}  {text}"))
    if operation.state in (OperationState.CANCELLED, OperationState.FAILED):
        print_message(describe_end(operation))
