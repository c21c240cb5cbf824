"""rapidbridge dead list."""

import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.filters import FilterCommand, build_delivery_filter, make_filter_options
from app.cli.common.messages import LINE_WIDTH
from app.cli.common.next_steps import account_rule_lines, group_command_lines
from app.cli.common.options import json_option
from app.cli.common.output import print_json, shorten
from app.config.load import find_routes_file
from app.config.settings import read_environment
from app.database.engine import Database
from app.plural import format_count
from app.store.failures import FAILED_STATES, FailureGroup, group_failures
from app.store.models import DeliveryState
from app.store.reasons import RECORD, Reason, explain
from app.store.unattributed import find_unattributed

_DISCARDED = "discarded"
_MAX_TEXT_WIDTH = 36


@click.command(name="list", cls=FilterCommand)
@make_filter_options((*FAILED_STATES, _DISCARDED))
@click.option("--discarded", "with_discarded", is_flag=True, help="Include discarded deliveries and records.")
@json_option
def list_dead(*, with_discarded: bool, as_json: bool, **options: Any) -> None:
    """List failed deliveries and dead records by cause.

    Every cause has the number of failures, their first and last time in UTC, an example's id and the usual
    next step. Exits 1 if there is any failure that was not discarded.

    \b
    Examples:
      rapidbridge dead list
      rapidbridge dead list --resource 'crm/*' --since 7d
    """
    delivery_filter = build_delivery_filter(options)
    with_discarded = with_discarded or _DISCARDED in delivery_filter.states
    database = open_interactive_database()
    groups = group_failures(database, delivery_filter, with_discarded=with_discarded)
    if as_json:
        print_json({"failures": [_group_as_json(group) for group in groups]})
    else:
        # The lines of the routes file are the same for all groups without an account: they are shown once.
        first = next(filter(_is_unattributed, groups), None)
        for group in groups:
            for line in _group_lines(group, _account_rules(database) if group is first else ()):
                click.echo(line)
        if not groups:
            click.echo("No failures.")
    if any(not group.discard_reason for group in groups):
        sys.exit(1)


def _is_unattributed(group: FailureGroup) -> bool:
    return group.state == DeliveryState.QUARANTINED and group.reason == Reason.NO_ACCOUNT


def _account_rules(database: Database) -> list[str]:
    webhook_ids = [webhook.webhook_id for webhook in find_unattributed(database)]
    has_routes_file = find_routes_file(read_environment()) is not None
    return list(account_rule_lines(webhook_ids, has_routes_file=has_routes_file))


def _group_as_json(group: FailureGroup) -> dict[str, object]:
    explanation = explain(group.state, group.reason)
    return asdict(group) | {
        "meaning": explanation.meaning,
        "advice": "" if group.discard_reason else explanation.advice,
    }


def _group_lines(group: FailureGroup, rule_lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines of one group. rule_lines: the lines of the routes file that are its remedy."""
    resource = f" of {shorten(group.resource, _MAX_TEXT_WIDTH)}" if group.resource else ""
    reason = shorten(group.reason, _MAX_TEXT_WIDTH)
    if group.state == RECORD:
        place = f", rejected by {shorten(group.sink, _MAX_TEXT_WIDTH)}" if group.sink else ", unreadable"
        yield _format_heading(group.number, "dead record", f"{resource}{place}: {reason}")
    else:
        yield _format_heading(group.number, f"{group.state} delivery", f"{resource}: {reason}")
    yield f"  {_format_period(group)}, e.g. {group.example}"
    explanation = explain(group.state, group.reason)
    advice = (
        f"discarded: {shorten(group.discard_reason, 200)}" if group.discard_reason else explanation.advice
    )
    text = "; ".join(filter(None, (explanation.meaning, advice)))
    yield from textwrap.wrap(f"{text}.", LINE_WIDTH, initial_indent="  ", subsequent_indent="  ")
    if not group.discard_reason:
        for line in rule_lines:
            yield f"  {line}"
        for line in group_command_lines(group.state, group.reason, group.example):
            yield f"  {line}"


def _format_period(group: FailureGroup) -> str:
    oldest, newest = (f"{time:%m-%d %H:%M:%S}" for time in (group.oldest, group.newest))
    return oldest if oldest == newest else f"{oldest} to {newest}"


def _format_heading(number: int, noun: str, rest: str) -> str:
    return click.style(format_count(number, noun), bold=True) + rest
