"""rapidbridge dead show."""

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from uuid import UUID

import click

from app.cli.common.explanations import meaning_of
from app.cli.common.output import printable
from app.cli.deliveries.asking import AS_JSON, delivery_id, open_for_person, tell_unknown
from app.cli.deliveries.body import harmless
from app.cli.deliveries.telling import shorten, to_json
from app.store.delivery_detail import DeadLine, read_dead_records, read_dossier

_WIDTH = 79


@click.command()
@click.argument("delivery", metavar="ID", callback=delivery_id)
@click.option("--raw", is_flag=True, help="Their JSON as it came, and nothing else: your customers' data.")
@AS_JSON
def show(delivery: UUID, *, raw: bool, as_json: bool) -> None:
    """Show the dead records of a delivery: their places in it, and why each is dead.

    With --json and --raw, each has its JSON with it.

    \b
    Examples:
      rapidbridge dead show 019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5
      rapidbridge dead show 019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5 --raw
    """
    store = open_for_person()
    dossier = read_dossier(store, delivery)
    if dossier is None:
        tell_unknown(delivery)
    records = read_dead_records(store, delivery, with_raw=raw)
    if as_json:
        told = [
            {name: value for name, value in asdict(each).items() if raw or name != "raw"} for each in records
        ]
        click.echo(to_json({"delivery": delivery, "state": dossier.delivery.state, "records": told}))
        return
    if raw:
        is_seen = sys.stdout.isatty()
        for each in records:
            click.echo(harmless(each.raw) if is_seen else each.raw)
        return
    state, reason = dossier.delivery.state, dossier.delivery.reason
    click.echo(f"{click.style(f'delivery {delivery}', bold=True)}  {state}")
    click.echo(f"  {meaning_of(state, reason).what}")
    for record in records:
        for line in _lines(record):
            click.echo(line)
    if not records:
        click.echo("  No single record of it is dead.")


def _without_raw(record: DeadLine) -> dict[str, object]:
    return {name: value for name, value in asdict(record).items() if name != "raw"}


def _lines(record: DeadLine) -> Iterator[str]:
    where = f"refused by {shorten(record.sink, 24)}" if record.sink else "unreadable"
    given_up = f" (discarded: {record.discarded})" if record.discarded else ""
    said = printable(f"record {record.ordinal}, {where}: {record.reason}, {record.message}{given_up}")
    yield from textwrap.wrap(said, _WIDTH, initial_indent="  ", subsequent_indent="    ")
