"""rapidbridge dead discard."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.filters import FilterCommand, build_delivery_filter, failure_filter_options
from app.cli.common.ids import DELIVERY_ID
from app.cli.common.messages import print_message
from app.cli.common.options import json_option, yes_option
from app.cli.common.output import print_json
from app.cli.common.progress import progress_bar
from app.cli.common.prompts import confirm
from app.clock import utc_now
from app.plural import format_count
from app.store.failures import Discard


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
    plan = Discard(open_interactive_database(), delivery_filter, of_records=of_records, until=utc_now())
    number, noun = plan.count(), "dead record" if of_records else "delivery"
    unaffected = plan.find_unaffected() if delivery_ids else []
    if number:
        confirm(f"Discard {format_count(number, noun)}?", yes=yes)
    discarded, is_finished = _run_with_progress(plan.discard(because), number)
    if as_json:
        print_json({"records" if of_records else "deliveries": discarded})
    else:
        click.echo(f"{format_count(discarded, noun)} discarded.")
    if not is_finished:
        print_message("Interrupted. Run the same command again to discard the rest.")
    if unaffected:
        reason = "without dead records" if of_records else "not dead, quarantined, unrouted or late"
        print_message(f"{format_count(len(unaffected), 'delivery')} not changed: {reason}.")
    if unaffected or not is_finished:
        sys.exit(1)


def _run_with_progress(pages: Iterator[int], number: int) -> tuple[int, bool]:
    """Return the number of discarded deliveries or records, and whether no interruption left some."""
    discarded = 0
    with progress_bar("Discarding", number) as bar, suppress(KeyboardInterrupt):
        for page in pages:
            bar.update(page)
            discarded += page
        return discarded, True
    return discarded, False
