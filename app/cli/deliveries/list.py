"""rapidbridge deliveries list."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import click

from app.cli.common.options import build_delivery_filter, filter_options
from app.cli.common.output import replace_control_chars
from app.cli.common.tables import format_table
from app.cli.deliveries.asking import JSON_OPTION, open_interactive_store
from app.cli.deliveries.telling import describe_delivery, shorten, to_json
from app.store.delivery_filter import DeliveryCount, DeliverySummary, count_deliveries, find_deliveries

_HEADERS = ("came (UTC)", "state", "records", "what")
_MAX_TEXT_WIDTH = 40


@click.command(name="list")
@filter_options
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most."
)
@click.option("--count", "only_count", is_flag=True, help="Count them by resource, method and state instead.")
@JSON_OPTION
def list_deliveries(limit: int, *, only_count: bool, as_json: bool, **options: Any) -> None:
    """List deliveries, the newest first: when each came, where it stands, why, and its id.

    \b
    Examples:
      rapidbridge deliveries list --run 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5
      rapidbridge deliveries list --state dead --state unrouted --since 1d
      rapidbridge deliveries list --resource 'crm/*' --count
    """
    delivery_filter = build_delivery_filter(options)
    store = open_interactive_store()
    # Counting all there ever was takes long, and nobody asked.
    counts = count_deliveries(store, delivery_filter) if only_count or not delivery_filter.is_empty else None
    deliveries = (
        []
        if only_count
        else list(islice(find_deliveries(store, delivery_filter, newest_first=True, page_size=limit), limit))
    )
    if as_json:
        counted = {} if counts is None else {"groups": [asdict(group) for group in counts]}
        listed = {} if only_count else {"deliveries": [asdict(delivery) for delivery in deliveries]}
        click.echo(to_json(listed | counted))
        return
    _print_counts(counts or ()) if only_count else _print_deliveries(deliveries)
    if counts:
        click.echo(_format_totals(counts))
    elif not deliveries:
        click.echo("No delivery.")


def _print_deliveries(deliveries: Sequence[DeliverySummary]) -> None:
    rows = [
        (
            f"{delivery.received_at:%m-%d %H:%M:%S}",
            delivery.state,
            delivery.records,
            shorten(describe_delivery(delivery), _MAX_TEXT_WIDTH),
        )
        for delivery in deliveries
    ]
    head, *lines = format_table(_HEADERS, rows)
    if lines:
        click.echo(head)
    # Its id has a line of its own: it would leave no room for anything else.
    for line, delivery in zip(lines, deliveries, strict=True):
        click.echo(line)
        click.echo(f"  {delivery.id}  {shorten(delivery.reason, _MAX_TEXT_WIDTH)}".rstrip())


def _print_counts(counts: Sequence[DeliveryCount]) -> None:
    rows = [
        (
            shorten(count.resource, _MAX_TEXT_WIDTH) or "(none)",
            replace_control_chars(count.method),
            count.state,
            count.deliveries,
            count.records,
        )
        for count in counts
    ]
    for line in format_table(("resource", "method", "state", "deliveries", "records"), rows) if rows else ():
        click.echo(line)


def _format_totals(counts: Sequence[DeliveryCount]) -> str:
    states: Counter[str] = Counter()
    for count in counts:
        states[count.state] += count.deliveries
    parts = ", ".join(f"{number:,} {state}" for state, number in states.most_common())
    return f"{states.total():,} in all: {parts}."
