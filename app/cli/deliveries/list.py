"""rapidbridge deliveries list."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.filters import FilterCommand, build_delivery_filter, filter_options
from app.cli.common.options import json_option
from app.cli.common.output import describe_event, print_json, replace_control_chars, shorten
from app.cli.common.tables import format_table
from app.store.delivery_filter import DeliveryCount, DeliverySummary, count_deliveries, find_deliveries

_HEADERS = ("received (UTC)", "state", "records", "resource or event")
_COUNT_HEADERS = ("resource", "method", "state", "deliveries", "records")
_MAX_TEXT_WIDTH = 40


@click.command(name="list", cls=FilterCommand)
@filter_options
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Deliveries to list."
)
@click.option("--count", "only_count", is_flag=True, help="Print counts by resource, method and state.")
@json_option
def list_deliveries(limit: int, *, only_count: bool, as_json: bool, **options: Any) -> None:
    """List deliveries with state, reason and id.

    The newest delivery comes first.

    \b
    Examples:
      rapidbridge deliveries list --run 1f276317
      rapidbridge deliveries list --state dead --state unrouted --since 1d
      rapidbridge deliveries list --resource 'crm/*' --count
    """
    delivery_filter = build_delivery_filter(options)
    database = open_interactive_database()
    # Counting all deliveries is slow: without a filter, only --count does it.
    counts = (
        count_deliveries(database, delivery_filter) if only_count or not delivery_filter.is_empty else None
    )
    deliveries = (
        []
        if only_count
        else list(
            islice(find_deliveries(database, delivery_filter, newest_first=True, page_size=limit), limit)
        )
    )
    if as_json:
        groups = {} if counts is None else {"groups": [asdict(group) for group in counts]}
        rows = {} if only_count else {"deliveries": [asdict(delivery) for delivery in deliveries]}
        print_json(rows | groups)
        return
    if only_count:
        _print_counts(counts or ())
    else:
        _print_deliveries(deliveries)
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
            shorten(describe_event(delivery.event, delivery.resource, delivery.method), _MAX_TEXT_WIDTH),
        )
        for delivery in deliveries
    ]
    header, *lines = format_table(_HEADERS, rows)
    if lines:
        click.echo(header)
    # The id gets its own line: the table would be wider than 80 columns with it.
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
    for line in format_table(_COUNT_HEADERS, rows) if rows else ():
        click.echo(line)


def _format_totals(counts: Sequence[DeliveryCount]) -> str:
    states: Counter[str] = Counter()
    for count in counts:
        states[count.state] += count.deliveries
    parts = ", ".join(f"{number:,} {state}" for state, number in states.most_common())
    return f"{states.total():,} in total: {parts}."
