"""rapidbridge dead discard."""

import sys
from dataclasses import replace
from typing import Any
from uuid import UUID

import click

from app.cli.common.audit import audit, make_requester
from app.cli.common.clients import open_interactive_database
from app.cli.common.filters import FilterCommand, build_delivery_filter, failure_filter_options
from app.cli.common.ids import DELIVERY_ID
from app.cli.common.messages import print_message
from app.cli.common.operations import (
    describe_end,
    follow_with_progress,
    print_left_running,
)
from app.cli.common.options import json_option, yes_option
from app.cli.common.output import print_json
from app.cli.common.prompts import confirm
from app.clock import utc_now
from app.database.engine import Database
from app.errors import OperationRefused
from app.plural import format_count
from app.replay.operations import OperationRequest, start_discard
from app.store.bounded_count import BoundedCount
from app.store.delivery_filter import DeliveryFilter
from app.store.discards import DiscardableSet
from app.store.operations import Operation, OperationState


def _require_reason(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("give a reason: it is stored with the discarded deliveries.")
    return value.strip()


@click.command(cls=FilterCommand)
@click.argument("delivery_ids", nargs=-1, metavar="[ID]...", type=DELIVERY_ID)
@failure_filter_options
@click.option(
    "--because", required=True, metavar="TEXT", callback=_require_reason, help="The reason, stored with them."
)
@click.option(
    "--records", "of_records", is_flag=True, help="Discard dead records of settled deliveries instead."
)
@yes_option
@json_option
def discard(
    delivery_ids: tuple[UUID, ...],
    because: str,
    *,
    of_records: bool,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Discard failed deliveries or dead records.

    Discarded deliveries and records are kept and count as dead in their runs, but `dead list` no longer shows
    them. Pending and settled deliveries are never discarded. With --records, --reason is the records' reason.

    \b
    Examples:
      rapidbridge dead discard 019a7f2c-1c44-8ae8 --because "a test"
      rapidbridge dead discard --resource 'sandbox/*' --because "not ours" --yes
      rapidbridge dead discard --records --reason too_deep --because "agreed"
    """
    delivery_filter = build_delivery_filter(options)
    delivery_ids = tuple(dict.fromkeys((*delivery_ids, *delivery_filter.ids)))
    delivery_filter = replace(delivery_filter, ids=delivery_ids)
    if delivery_filter.is_empty:
        raise click.UsageError("Choose deliveries: pass ids, or filters such as --state unrouted.")
    if of_records and delivery_filter.states:
        raise click.UsageError("--records is about settled deliveries: leave --state out.")
    database, now = open_interactive_database(), utc_now()
    limited = replace(delivery_filter, until=min(delivery_filter.until or now, now), settled_until=now)
    discardable = DiscardableSet(database, limited, of_records=of_records)
    number, noun = discardable.count(), "dead record" if of_records else "delivery"
    unaffected = discardable.find_unaffected() if delivery_ids else []
    operation = None
    if number:
        confirm(f"Discard {format_count(number, noun)}?", yes=yes)
        subject = OperationRequest(limited, because=because).as_subject()
        audit(database, "failed.discard", subject, BoundedCount(number))
        operation = _discard(database, limited, because, number, of_records=of_records)
    discarded = operation.done if operation else 0
    is_finished = operation is None or operation.state == OperationState.FINISHED
    if as_json:
        print_json({"records" if of_records else "deliveries": discarded})
    else:
        click.echo(f"{format_count(discarded, noun)} discarded.")
    if operation and not operation.is_finished:
        print_left_running(operation)
    elif operation and not is_finished:
        print_message(describe_end(operation))
    if unaffected:
        reason = "without dead records" if of_records else "not dead, quarantined, unrouted or late"
        print_message(f"{format_count(len(unaffected), 'delivery')} not changed: {reason}.")
    if unaffected or not is_finished:
        sys.exit(1)


def _discard(
    database: Database, delivery_filter: DeliveryFilter, because: str, total: int, *, of_records: bool
) -> Operation:
    """Start and follow the operation; return it as it is at its end, or after Ctrl-C."""
    try:
        operation = start_discard(
            database,
            delivery_filter,
            of_records=of_records,
            because=because,
            requester=make_requester(),
            total=total,
        )
    except OperationRefused as error:
        print_message(str(error))
        sys.exit(1)
    return follow_with_progress(database, operation)
