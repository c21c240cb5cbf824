"""Operations on the command line: progress, and the messages about their end."""

import json
import os
import socket
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

import click

from app.cli.common.messages import print_message
from app.cli.common.progress import progress_bar
from app.database.engine import Database
from app.replay.executor import OperationExecutor
from app.replay.follow import follow_operation
from app.store.operations import Operation, OperationKind, Operations, OperationState

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # click names its type nowhere else

OPERATION_ID = click.UUID
_INTERNAL = ("cursor", "leased_by", "leased_until")
_LABELS = {
    OperationKind.REPLAY: "replaying",
    OperationKind.DISCARD: "discarding",
    OperationKind.DISCARD_RECORDS: "discarding",
}


def follow_with_progress(database: Database, operation: Operation) -> Operation:
    """Follow an operation, and carry it out here unless a worker does; return it as it is at the end.

    Ctrl-C leaves it to the workers.
    """
    owner = f"{socket.gethostname()}:command:{os.getpid()}:{time.time_ns()}"
    executor = OperationExecutor(database, owner=owner)
    with progress_bar(_LABELS[operation.kind], operation.total or 0) as bar:
        try:
            observer = _Progress(bar, operation)
            return follow_operation(database, operation, executor=executor, observer=observer)
        except KeyboardInterrupt:
            pass
    return Operations(database).get(operation.id) or operation


def print_left_running(operation: Operation) -> None:
    """Print that an operation continues in the background, and the commands for it."""
    print_message(
        "Interrupted. The work continues in the background, as long as a worker is running. To follow it, "
        f"run: rapidbridge operations show {operation.id} --follow"
    )
    print_message(f"To cancel it, run: rapidbridge operations cancel {operation.id}")


def format_progress(operation: Operation) -> str:
    """Return the progress of an operation, such as "200 of 1,000"."""
    return f"{operation.done:,} of {'?' if operation.total is None else f'{operation.total:,}'}"


def to_json_values(operation: Operation) -> dict[str, Any]:
    """Return an operation as JSON values, without its lease and cursor."""
    values = asdict(operation) | {"request": json.loads(operation.request)}
    return {name: value for name, value in values.items() if name not in _INTERNAL}


def exit_operation_not_found(operation_id: UUID) -> NoReturn:
    """Print that there is no such operation, and end the command with exit code 1."""
    print_message(
        f"There is no operation {operation_id} here. To list them, run: rapidbridge operations list"
    )
    raise click.exceptions.Exit(1)


def describe_end(operation: Operation) -> str:
    """Return the message about an operation that was cancelled or failed."""
    if operation.state == OperationState.CANCELLED:
        return "Cancelled. The part that was done stays. Run the same command again for the rest."
    return (
        f"The receiver failed with {operation.error}. The part that was done stays. Run the same command "
        "again; if it fails again, report this message to the maintainers."
    )


class _Progress:
    """Shows an operation on a progress bar; an `OperationObserver`."""

    def __init__(self, bar: "ProgressBar[int]", operation: Operation) -> None:
        self._bar = bar
        self._done_before = operation.done
        self._started_s = time.monotonic()

    def on_progress(self, operation: Operation) -> None:
        elapsed_s = max(0.1, time.monotonic() - self._started_s)
        rate = max(0, operation.done - self._done_before) / elapsed_s
        self._bar.label = f"{_LABELS[operation.kind]}, {rate:,.0f}/s"
        self._bar.length = max(operation.total or 0, operation.done)
        self._bar.update(operation.done - self._bar.pos)

    def on_stalled(self, operation: Operation, stalled_s: float) -> None:
        subject = (
            "delivery was settled" if operation.kind == OperationKind.REPLAY else "failure was discarded"
        )
        print_message(
            f"No {subject} for {stalled_s:.0f} s. Still waiting. To check the workers and the sinks, run: "
            "rapidbridge doctor"
        )
