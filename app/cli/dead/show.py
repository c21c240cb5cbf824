"""rapidbridge dead show."""

import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from uuid import UUID

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.ids import DELIVERY_ID, exit_not_found
from app.cli.common.messages import LINE_WIDTH
from app.cli.common.options import json_option
from app.cli.common.output import (
    escape_control_chars,
    print_json,
    replace_control_chars,
    shorten,
)
from app.store.delivery_detail import DeadRecordDetail, read_dead_records, read_delivery_detail
from app.store.reasons import explain

_MAX_SINK_WIDTH = 24
_MAX_ORDINALS = 10


@click.command()
@click.argument("delivery", metavar="ID", type=DELIVERY_ID)
@click.option("--raw", is_flag=True, help="Print the records' JSON as received: your customers' data.")
@json_option
def show(delivery: UUID, *, raw: bool, as_json: bool) -> None:
    """Show a delivery's dead records and their reasons.

    ID may be shortened to its first characters. With --json and --raw, every record includes its JSON.

    \b
    Examples:
      rapidbridge dead show 019a7f2c-1c44-8ae8
      rapidbridge dead show 019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5 --raw
    """
    database = open_interactive_database()
    detail = read_delivery_detail(database, delivery)
    if detail is None:
        exit_not_found(delivery)
    records = read_dead_records(database, delivery, with_raw=raw)
    if as_json:
        rows = [
            {name: value for name, value in asdict(record).items() if raw or name != "raw"}
            for record in records
        ]
        print_json({"delivery": delivery, "state": detail.delivery.state, "records": rows})
        return
    if raw:
        is_terminal = sys.stdout.isatty()
        for record in records:
            click.echo(escape_control_chars(record.raw) if is_terminal else record.raw)
        return
    state, reason = detail.delivery.state, detail.delivery.reason
    click.echo(f"{click.style(f'delivery {delivery}', bold=True)}  {state}")
    for line in textwrap.wrap(explain(state, reason).meaning, LINE_WIDTH - 2):
        click.echo(f"  {line}")
    for group in _group_by_reason(records):
        for line in _group_lines(group):
            click.echo(line)
    if not records:
        click.echo("  No dead records.")


def _group_by_reason(records: Sequence[DeadRecordDetail]) -> list[list[DeadRecordDetail]]:
    """Return the records with the same sink and reason together, in the order of their first records."""
    groups: dict[tuple[str, str, str, str], list[DeadRecordDetail]] = {}
    for record in records:
        key = (record.sink, record.reason, record.message, record.discard_reason)
        groups.setdefault(key, []).append(record)
    return list(groups.values())


def _group_lines(records: Sequence[DeadRecordDetail]) -> Iterator[str]:
    first = records[0]
    place = f"rejected by {shorten(first.sink, _MAX_SINK_WIDTH)}" if first.sink else "unreadable"
    discarded = f" (discarded: {first.discard_reason})" if first.discard_reason else ""
    ordinals = [str(record.ordinal) for record in records[:_MAX_ORDINALS]]
    more = f" and {len(records) - _MAX_ORDINALS:,} more" if len(records) > _MAX_ORDINALS else ""
    numbers = f"{', '.join(ordinals)}{more}"
    subject = f"record {numbers}" if len(records) == 1 else f"{len(records):,} records ({numbers})"
    text = replace_control_chars(f"{subject}, {place}: {first.reason}, {first.message}{discarded}")
    yield from textwrap.wrap(text, LINE_WIDTH, initial_indent="  ", subsequent_indent="    ")
