"""rapidbridge routes suggest."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime

import click

from app.checks.column_suggestions import ColumnSuggestions, SuggestedColumn
from app.cli.common.clients import open_interactive_database
from app.cli.common.options import json_option
from app.cli.common.output import print_json, replace_control_chars
from app.config.load import read_config
from app.database.engine import Database
from app.errors import BodyPruned
from app.plural import format_count
from app.store.delivery_filter import DeliveryFilter
from app.store.delivery_search import search_deliveries
from app.store.inbox import Inbox
from app.truto.events import has_records
from app.truto.record_slices import find_slices

_PAGE_SIZE = 20
_MAX_DELIVERIES = 1000
_BARE_PATH = re.compile(r"[a-z][a-z0-9_]*")


@click.command()
@click.argument("resource")
@click.argument("method", default="")
@click.option("--account", default="", help="Only deliveries of this integrated account.")
@click.option(
    "--records",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    help="Number of records to read, newest first.",
)
@json_option
def suggest(resource: str, method: str, *, account: str, records: int, as_json: bool) -> None:
    """Suggest columns for a resource, from its records.

    Prints a table for the routes file. Every value that was read fits its column. The exit code is 1 if the
    inbox has no record of the resource, or no body of one any more.

    \b
    Example:
      rapidbridge routes suggest crm/contacts
    """
    database = open_interactive_database(read_config().settings)
    delivery_filter = DeliveryFilter(resource=resource, method=method, integrated_account_id=account)
    suggestions = ColumnSuggestions()
    newest = _read_records(database, delivery_filter, suggestions, records)
    if not suggestions.records:
        click.echo(
            f"No stored body has a record of {replace_control_chars(resource)}. Send a page of it, or list "
            "the resources that have arrived: rapidbridge deliveries list",
            err=True,
        )
        sys.exit(1)
    columns = suggestions.suggest()
    if as_json:
        print_json(
            {
                "records": suggestions.records,
                "columns": [
                    {"name": c.name, "type": c.type, "path": c.path, "present": c.present} for c in columns
                ],
            }
        )
        return
    until = f", the newest received at {newest:%Y-%m-%d %H:%M} UTC" if newest else ""
    click.echo(f"# From {format_count(suggestions.records, 'record')}{until}.")
    click.echo("# Behind each column: the share of these records that have a value.")
    click.echo("[routes.columns]")
    for line in _format_columns(columns, suggestions.records):
        click.echo(line)


def _read_records(
    database: Database, delivery_filter: DeliveryFilter, suggestions: ColumnSuggestions, limit: int
) -> datetime | None:
    """Add records, newest first, until there are enough; return the time of the newest delivery."""
    inbox, after, newest = Inbox(database), None, None
    read = 0
    while read < _MAX_DELIVERIES:
        page = search_deliveries(database, delivery_filter, after=after, page_size=_PAGE_SIZE)
        for delivery in page.deliveries:
            read += 1
            if not has_records(delivery.event):
                continue
            try:
                body = inbox.read_body(delivery.id)
            except BodyPruned:
                continue
            newest = newest or delivery.received_at
            slices = find_slices(body, payload_is_record=True)
            for part in slices.read() if slices else ():
                for _, value in part.batch.records:
                    suggestions.add(value)
                    if suggestions.records >= limit:
                        return newest
        after = page.next
        if after is None:
            break
    return newest


def _format_columns(columns: Sequence[SuggestedColumn], records: int) -> Iterator[str]:
    lines = [f"{column.name} = {_format_type(column)}" for column in columns]
    width = min(60, max(map(len, lines), default=0))
    for line, column in zip(lines, columns, strict=True):
        yield f"{replace_control_chars(line):{width}}  # {100 * column.present / records:.0f} %"


def _format_type(column: SuggestedColumn) -> str:
    if column.path == column.name:
        return f'"{column.type}"'
    return f'{{ type = "{column.type}", path = {json.dumps(column.path)} }}'
