"""rapidbridge deletes approve."""

from uuid import UUID

import click

from app.cli.common.audit import audit, describe_operator
from app.cli.common.clients import open_interactive_database
from app.cli.common.messages import print_message
from app.clock import utc_now
from app.plural import format_count
from app.runs.delete_checks import APPROVE_ACTION, find_approval_refusal
from app.store.bounded_count import BoundedCount
from app.store.delete_checks import DeleteChecks

_LIST = "To list all, run: rapidbridge deletes list"


@click.command()
@click.argument("check_id", metavar="ID", type=click.UUID)
def approve(check_id: UUID) -> None:
    """Mark the rows that a run did not see, although they are many.

    `rapidbridge worker` marks them within seconds. Only marks that are held back because of max_deleted_share
    can be approved, until a newer run of the same job and account is complete.

    \b
    Example:
      rapidbridge deletes approve 6f1c2c1e-8f5b-4c39-a4f4-7a6d3b0c9f11
    """
    database = open_interactive_database()
    checks = DeleteChecks(database)
    check = checks.get(check_id)
    if check is None:
        print_message(f"There is no delete check {check_id} here. {_LIST}")
        raise click.exceptions.Exit(1)
    if refusal := find_approval_refusal(check):
        print_message(f"Not approved: {refusal}. {_LIST}")
        raise click.exceptions.Exit(1)
    number = check.unseen_rows or 0
    audit(database, APPROVE_ACTION, str(check_id), BoundedCount(number))
    if not checks.approve(check_id, by=describe_operator(), now=utc_now()):
        print_message(f"Not approved: the check changed meanwhile. {_LIST}")
        raise click.exceptions.Exit(1)
    rows = format_count(number, "row")
    click.echo(f"Approved: workers mark {rows} of {check.resource} in {check.sink} as deleted.")
