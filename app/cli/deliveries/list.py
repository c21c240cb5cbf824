"""rapidbridge deliveries list."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import click

from app.cli.common.options import filters, selection_of
from app.cli.common.output import printable
from app.cli.common.tables import table_lines
from app.cli.deliveries.asking import AS_JSON, open_for_person
from app.cli.deliveries.telling import shorten, to_json, what
from app.store.delivery_filter import Found, Group, count, find

_HEAD = ("came (UTC)", "state", "records", "what")
_LONGEST = 40


@click.command(name="list")
@filters
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most."
)
@click.option("--count", "only_count", is_flag=True, help="Count them by resource, method and state instead.")
@AS_JSON
def list_deliveries(limit: int, *, only_count: bool, as_json: bool, **options: Any) -> None:
    """List deliveries, the newest first: when each came, where it stands, why, and its id.

    \b
    Examples:
      rapidbridge deliveries list --run 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5
      rapidbridge deliveries list --state dead --state unrouted --since 1d
      rapidbridge deliveries list --resource 'crm/*' --count
    """
    selection = selection_of(options)
    store = open_for_person()
    # Counting all there ever was takes long, and nobody asked.
    groups = count(store, selection) if only_count or not selection.is_everything else None
    found = [] if only_count else list(islice(find(store, selection, newest_first=True, page=limit), limit))
    if as_json:
        counted = {} if groups is None else {"groups": [asdict(group) for group in groups]}
        listed = {} if only_count else {"deliveries": [asdict(each) for each in found]}
        click.echo(to_json(listed | counted))
        return
    _print_groups(groups or ()) if only_count else _print_found(found)
    if groups:
        click.echo(_sums(groups))
    elif not found:
        click.echo("No delivery.")


def _print_found(found: Sequence[Found]) -> None:
    rows = [
        (f"{each.received_at:%m-%d %H:%M:%S}", each.state, each.records, shorten(what(each), _LONGEST))
        for each in found
    ]
    head, *lines = table_lines(_HEAD, rows)
    if lines:
        click.echo(head)
    # Its id has a line of its own: it would leave no room for anything else.
    for line, each in zip(lines, found, strict=True):
        click.echo(line)
        click.echo(f"  {each.id}  {shorten(each.reason, _LONGEST)}".rstrip())


def _print_groups(groups: Sequence[Group]) -> None:
    rows = [
        (
            shorten(group.resource, _LONGEST) or "(none)",
            printable(group.method),
            group.state,
            group.deliveries,
            group.records,
        )
        for group in groups
    ]
    for line in table_lines(("resource", "method", "state", "deliveries", "records"), rows) if rows else ():
        click.echo(line)


def _sums(groups: Sequence[Group]) -> str:
    states: Counter[str] = Counter()
    for group in groups:
        states[group.state] += group.deliveries
    told = ", ".join(f"{number:,} {state}" for state, number in states.most_common())
    return f"{states.total():,} in all: {told}."
