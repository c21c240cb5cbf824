"""rapidbridge dead show."""

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from uuid import UUID

import click

from app.cli.common.output import replace_control_chars
from app.cli.deliveries.asking import JSON_OPTION, exit_not_found, open_interactive_store, parse_delivery_ids
from app.cli.deliveries.body import escape_control_chars
from app.cli.deliveries.telling import shorten, to_json
from app.store.delivery_detail import DeadRecordDetail, read_dead_records, read_delivery_detail
from app.store.reasons import explain

_WIDTH = 79


@click.command()
@click.argument("delivery", metavar="ID", callback=parse_delivery_ids)
@click.option("--raw", is_flag=True, help="Their JSON as it came, and nothing else: your customers' data.")
@JSON_OPTION
def show(delivery: UUID, *, raw: bool, as_json: bool) -> None:
    """Show the dead records of a delivery: their places in it, and why each is dead.

    With --json and --raw, each has its JSON with it.

    \b
    Examples:
      rapidbridge dead show 019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5
      rapidbridge dead show 019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5 --raw
    """
    store = open_interactive_store()
    detail = read_delivery_detail(store, delivery)
    if detail is None:
        exit_not_found(delivery)
    records = read_dead_records(store, delivery, with_raw=raw)
    if as_json:
        rows = [
            {name: value for name, value in asdict(record).items() if raw or name != "raw"}
            for record in records
        ]
        click.echo(to_json({"delivery": delivery, "state": detail.delivery.state, "records": rows}))
        return
    if raw:
        is_terminal = sys.stdout.isatty()
        for record in records:
            click.echo(escape_control_chars(record.raw) if is_terminal else record.raw)
        return
    state, reason = detail.delivery.state, detail.delivery.reason
    click.echo(f"{click.style(f'delivery {delivery}', bold=True)}  {state}")
    click.echo(f"  {explain(state, reason).meaning}")
    for record in records:
        for line in _record_lines(record):
            click.echo(line)
    if not records:
        click.echo("  No single record of it is dead.")


def _without_raw(record: DeadRecordDetail) -> dict[str, object]:
    return {name: value for name, value in asdict(record).items() if name != "raw"}


def _record_lines(record: DeadRecordDetail) -> Iterator[str]:
    where = f"refused by {shorten(record.sink, 24)}" if record.sink else "unreadable"
    given_up = f" (discarded: {record.discard_reason})" if record.discard_reason else ""
    text = replace_control_chars(
        f"record {record.ordinal}, {where}: {record.reason}, {record.message}{given_up}"
    )
    yield from textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")
