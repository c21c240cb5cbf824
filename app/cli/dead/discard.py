"""rapidbridge dead discard."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from app.cli.common.options import filters
from app.cli.common.progress import progress_bar
from app.cli.dead.choosing import stranded_of
from app.cli.deliveries.asking import AS_JSON, delivery_id, open_for_person
from app.cli.deliveries.telling import to_json
from app.store.failures import count_dead_records, count_stranded, discard_records
from app.store.failures import discard as discard_deliveries


def _not_blank(_context: click.Context, _option: click.Parameter, given: str) -> str:
    if not given.strip():
        raise click.BadParameter("say why: it is kept with what you give up.")
    return given.strip()


@click.command()
@click.argument("named", nargs=-1, metavar="[ID...]", callback=delivery_id)
@filters
@click.option("--because", required=True, callback=_not_blank, help="Why it is given up: kept with it.")
@click.option(
    "--records", "of_records", is_flag=True, help="Dead records of settled deliveries instead of deliveries."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@AS_JSON
def discard(
    named: tuple[UUID, ...], because: str, *, of_records: bool, yes: bool, as_json: bool, **options: Any
) -> None:
    """Give up what did not reach its sinks. It is kept, counts as dead, and is listed no more.

    Only what is dead, quarantined, unrouted or late: never what is pending or settled.

    \b
    Examples:
      rapidbridge dead discard 019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5 --because "a test"
      rapidbridge dead discard --resource 'sandbox/*' --because "not ours" --yes
      rapidbridge dead discard --records --reason too_deep --because "agreed with them"
    """
    selection = stranded_of(options)
    named = tuple(dict.fromkeys((*named, *selection.ids)))
    selection = replace(selection, ids=named)
    if selection.is_everything:
        raise click.UsageError("Say which: name ids, or filters such as --state unrouted.")
    if of_records and selection.states:
        raise click.UsageError("--records are those of settled deliveries: leave --state out.")
    now = datetime.now(UTC)
    # What comes from now on was not asked about.
    selection = replace(selection, until=min(selection.until or now, now))
    store = open_for_person()
    number = (count_dead_records if of_records else count_stranded)(store, selection)
    if number and not yes:
        _confirm(number, of_records=of_records)
    pages = (
        discard_records(store, selection, why=because)
        if of_records
        else discard_deliveries(store, selection, why=because, now=now)
    )
    done = _watch(pages, number)
    if as_json:
        click.echo(to_json({"records" if of_records else "deliveries": done}))
    else:
        click.echo(f"{_told(done, of_records=of_records)} discarded.")
    if len(named) > done and not of_records:
        click.echo("The others are not dead, quarantined, unrouted or late: left as they are.", err=True)
        sys.exit(1)


def _confirm(number: int, *, of_records: bool) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody is there to confirm: pass --yes to discard without asking.")
    click.confirm(f"Discard {_told(number, of_records=of_records)}?", abort=True, err=True)


def _told(number: int, *, of_records: bool) -> str:
    if of_records:
        return f"{number:,} dead record{'' if number == 1 else 's'}"
    return f"{number:,} {'delivery' if number == 1 else 'deliveries'}"


def _watch(pages: Iterator[int], number: int) -> int:
    done = 0
    with progress_bar("Discarding", number) as bar:
        for page in pages:
            bar.update(page)
            done += page
    return done
