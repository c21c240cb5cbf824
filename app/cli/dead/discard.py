"""rapidbridge dead discard."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from app.cli.common.options import filter_options
from app.cli.common.progress import progress_bar
from app.cli.dead.choosing import build_failure_filter
from app.cli.deliveries.asking import JSON_OPTION, open_interactive_store, parse_delivery_ids
from app.cli.deliveries.telling import to_json
from app.store.failures import count_dead_records, count_failed, discard_dead_records, discard_deliveries


def _require_text(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("say why: it is kept with what you give up.")
    return value.strip()


@click.command()
@click.argument("named", nargs=-1, metavar="[ID...]", callback=parse_delivery_ids)
@filter_options
@click.option("--because", required=True, callback=_require_text, help="Why it is given up: kept with it.")
@click.option(
    "--records", "of_records", is_flag=True, help="Dead records of settled deliveries instead of deliveries."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON_OPTION
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
    delivery_filter = build_failure_filter(options)
    named = tuple(dict.fromkeys((*named, *delivery_filter.ids)))
    delivery_filter = replace(delivery_filter, ids=named)
    if delivery_filter.is_empty:
        raise click.UsageError("Say which: name ids, or filters such as --state unrouted.")
    if of_records and delivery_filter.states:
        raise click.UsageError("--records are those of settled deliveries: leave --state out.")
    now = datetime.now(UTC)
    # What comes from now on was not asked about.
    delivery_filter = replace(delivery_filter, until=min(delivery_filter.until or now, now))
    store = open_interactive_store()
    number = (count_dead_records if of_records else count_failed)(store, delivery_filter)
    if number and not yes:
        _confirm_discard(number, of_records=of_records)
    pages = (
        discard_dead_records(store, delivery_filter, reason=because)
        if of_records
        else discard_deliveries(store, delivery_filter, reason=because, now=now)
    )
    done = _discard_pages(pages, number)
    if as_json:
        click.echo(to_json({"records" if of_records else "deliveries": done}))
    else:
        click.echo(f"{_format_count(done, of_records=of_records)} discarded.")
    if len(named) > done and not of_records:
        click.echo("The others are not dead, quarantined, unrouted or late: left as they are.", err=True)
        sys.exit(1)


def _confirm_discard(number: int, *, of_records: bool) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody is there to confirm: pass --yes to discard without asking.")
    click.confirm(f"Discard {_format_count(number, of_records=of_records)}?", abort=True, err=True)


def _format_count(number: int, *, of_records: bool) -> str:
    if of_records:
        return f"{number:,} dead record{'' if number == 1 else 's'}"
    return f"{number:,} {'delivery' if number == 1 else 'deliveries'}"


def _discard_pages(pages: Iterator[int], number: int) -> int:
    done = 0
    with progress_bar("Discarding", number) as bar:
        for page in pages:
            bar.update(page)
            done += page
    return done
