"""rapidbridge operations cancel."""

from uuid import UUID

import click

from app.cli.common.audit import audit
from app.cli.common.clients import open_interactive_database
from app.cli.common.operations import OPERATION_ID, exit_operation_not_found
from app.cli.common.options import json_option
from app.cli.common.output import print_json
from app.replay.operations import cancel_operation
from app.store.operations import Operations


@click.command()
@click.argument("operation_id", metavar="ID", type=OPERATION_ID)
@json_option
def cancel(operation_id: UUID, *, as_json: bool) -> None:
    """Cancel a replay or a discard.

    The part that is done stays. Deliveries that a replay has requeued are written. An operation that has
    ended does not change.

    \b
    Example:
      rapidbridge operations cancel 6349cea5-1998-4e14-a020-e1540fc374f7
    """
    database = open_interactive_database()
    operations = Operations(database)
    operation, is_cancelled = operations.get(operation_id), False
    if operation and not operation.is_finished:
        audit(database, "operation.cancel", str(operation_id))
        is_cancelled = cancel_operation(database, operation_id)
        operation = operations.get(operation_id)
    if operation is None:
        exit_operation_not_found(operation_id)
    if as_json:
        print_json({"operation": operation_id, "state": operation.state, "is_cancelled": is_cancelled})
    elif is_cancelled:
        click.echo(f"Cancelled, with {operation.done:,} done.")
    else:
        click.echo(f"Not changed: it is {operation.state}.")
