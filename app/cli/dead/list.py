"""rapidbridge dead list."""

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from app.cli.common.options import filter_options
from app.cli.dead.choosing import build_failure_filter
from app.cli.deliveries.asking import JSON_OPTION, open_interactive_store
from app.cli.deliveries.telling import shorten, to_json
from app.store.failures import FailureGroup, group_failures
from app.store.reasons import RECORD, explain

_MAX_TEXT_WIDTH = 36
_WIDTH = 79


@click.command(name="list")
@filter_options
@click.option("--discarded", "with_discarded", is_flag=True, help="Also what was given up.")
@JSON_OPTION
def list_dead(*, with_discarded: bool, as_json: bool, **options: Any) -> None:
    """List what did not reach its sinks, by cause: how much, since when, an example, and what usually helps.

    Exits 1 if there is anything that was not given up.

    \b
    Examples:
      rapidbridge dead list
      rapidbridge dead list --resource 'crm/*' --since 7d
    """
    failure_filter = build_failure_filter(options, more_states=("discarded",))
    with_discarded = with_discarded or "discarded" in failure_filter.states
    groups = group_failures(open_interactive_store(), failure_filter, with_discarded=with_discarded)
    if as_json:
        click.echo(to_json({"failures": [_group_as_json(group) for group in groups]}))
    else:
        for group in groups:
            for line in _group_lines(group):
                click.echo(line)
        if not groups:
            click.echo("Nothing is dead.")
    if any(not group.discard_reason for group in groups):
        sys.exit(1)


def _group_as_json(group: FailureGroup) -> dict[str, object]:
    explanation = explain(group.state, group.reason)
    return asdict(group) | {
        "meaning": explanation.meaning,
        "remedy": "" if group.discard_reason else explanation.advice,
    }


def _group_lines(group: FailureGroup) -> Iterator[str]:
    of = f" of {shorten(group.resource, _MAX_TEXT_WIDTH)}" if group.resource else ""
    reason = shorten(group.reason, _MAX_TEXT_WIDTH)
    if group.state == RECORD:
        where = f", refused by {shorten(group.sink, _MAX_TEXT_WIDTH)}" if group.sink else ", unreadable"
        yield _format_heading(group.number, "dead record", f"{of}{where}: {reason}")
    else:
        yield _format_heading(group.number, f"{group.state} delivery", f"{of}: {reason}")
    yield f"  {group.oldest:%m-%d %H:%M:%S} to {group.newest:%m-%d %H:%M:%S}, as {group.example}"
    explanation = explain(group.state, group.reason)
    advice = (
        f"discarded: {shorten(group.discard_reason, 200)}" if group.discard_reason else explanation.advice
    )
    text = "; ".join(filter(None, (explanation.meaning, advice)))
    yield from textwrap.wrap(f"{text}.", _WIDTH, initial_indent="  ", subsequent_indent="  ")


def _format_heading(number: int, kind: str, rest: str) -> str:
    many = kind if number == 1 else kind.removesuffix("y") + "ies" if kind.endswith("y") else f"{kind}s"
    return click.style(f"{number:,} {many}", bold=True) + rest
