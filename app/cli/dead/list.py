"""rapidbridge dead list."""

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from app.cli.common.explanations import Meaning, meaning_of, meaning_of_records
from app.cli.common.options import filters
from app.cli.dead.choosing import stranded_of
from app.cli.deliveries.asking import AS_JSON, open_for_person
from app.cli.deliveries.telling import shorten, to_json
from app.store.failures import Stranding, find_strandings

_LONGEST = 36
_WIDTH = 79


@click.command(name="list")
@filters
@click.option("--discarded", "with_discarded", is_flag=True, help="Also what was given up.")
@AS_JSON
def list_dead(*, with_discarded: bool, as_json: bool, **options: Any) -> None:
    """List what did not reach its sinks, by cause: how much, since when, an example, and what usually helps.

    Exits 1 if there is anything that was not given up.

    \b
    Examples:
      rapidbridge dead list
      rapidbridge dead list --resource 'crm/*' --since 7d
    """
    selection = stranded_of(options, more_states=("discarded",))
    with_discarded = with_discarded or "discarded" in selection.states
    found = find_strandings(open_for_person(), selection, with_discarded=with_discarded)
    if as_json:
        click.echo(to_json({"causes": [_as_json(each) for each in found]}))
    else:
        for each in found:
            for line in _lines(each):
                click.echo(line)
        if not found:
            click.echo("Nothing is dead.")
    if any(not each.discarded for each in found):
        sys.exit(1)


def _meaning(cause: Stranding) -> Meaning:
    if cause.state == "record":
        return meaning_of_records(cause.reason)
    return meaning_of(cause.state, cause.reason)


def _as_json(cause: Stranding) -> dict[str, object]:
    meaning = _meaning(cause)
    return asdict(cause) | {"meaning": meaning.what, "remedy": "" if cause.discarded else meaning.remedy}


def _lines(cause: Stranding) -> Iterator[str]:
    of = f" of {shorten(cause.resource, _LONGEST)}" if cause.resource else ""
    reason = shorten(cause.reason, _LONGEST)
    if cause.state == "record":
        where = f", refused by {shorten(cause.sink, _LONGEST)}" if cause.sink else ", unreadable"
        yield _head(cause.number, "dead record", f"{of}{where}: {reason}")
    else:
        yield _head(cause.number, f"{cause.state} delivery", f"{of}: {reason}")
    yield f"  {cause.oldest:%m-%d %H:%M:%S} to {cause.newest:%m-%d %H:%M:%S}, as {cause.example}"
    meaning = _meaning(cause)
    helps = f"discarded: {shorten(cause.discarded, 200)}" if cause.discarded else meaning.remedy
    said = "; ".join(filter(None, (meaning.what, helps)))
    yield from textwrap.wrap(f"{said}.", _WIDTH, initial_indent="  ", subsequent_indent="  ")


def _head(number: int, kind: str, rest: str) -> str:
    many = kind if number == 1 else kind.removesuffix("y") + "ies" if kind.endswith("y") else f"{kind}s"
    return click.style(f"{number:,} {many}", bold=True) + rest
