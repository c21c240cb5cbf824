"""Previews, warnings and summaries of a replay, as text or JSON."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from app.cli.common.output import print_json
from app.cli.common.program import name_program
from app.cli.common.prompts import confirm
from app.cli.common.tables import format_table
from app.plural import format_count
from app.replay.preview import ReplayPreview
from app.store.replays import Replay

_CONFIRM_ABOVE = 1000
# Warnings about single lines and deliveries; the summary counts the others.
_MAX_WARNINGS = 50
_LEFT_OUT_LABELS = {
    "pruned": "pruned: restore archived bodies with `rapidbridge replay --from`",
    "pending": "pending: already in progress",
    "refused": "refused: include them with --state refused",
}


def confirm_preview(preview: ReplayPreview, action: str, *, yes: bool) -> None:
    """Prompt before many deliveries. action: the verb of the question."""
    if yes or preview.total <= _CONFIRM_ABOVE:
        return
    for line in _preview_lines(preview):
        click.echo(line, err=True)
    confirm(f"{action} {format_count(preview.total, 'delivery')}?", yes=yes)


class LimitedWarnings:
    """Prints the first warnings to standard error, and then that there are more."""

    def __init__(self) -> None:
        self._printed = 0

    def print(self, text: str) -> None:
        """Print a warning, unless there were too many."""
        if self._printed < _MAX_WARNINGS:
            click.echo(text, err=True)
        elif self._printed == _MAX_WARNINGS:
            click.echo("Further warnings are only counted.", err=True)
        self._printed += 1


def print_lines(lines: Iterable[str], values: Mapping[str, Any], *, as_json: bool) -> None:
    """Print lines of text, or the same values as JSON."""
    if as_json:
        print_json(values)
    else:
        for line in lines:
            click.echo(name_program(line))


def print_preview(preview: ReplayPreview, *, as_json: bool) -> None:
    """Print the deliveries that a replay would include and leave out."""
    print_lines(_preview_lines(preview), preview.as_json(), as_json=as_json)


def _preview_lines(preview: ReplayPreview) -> Iterator[str]:
    if preview.unfinished:
        yield format_resumed(preview.unfinished)
    rows = [
        (group.resource, group.method, group.state, group.deliveries) for group in preview.included_groups
    ]
    if rows:
        yield from format_table(("resource", "method", "state", "deliveries"), rows)
    yield f"{format_count(preview.total, 'delivery')}{', the oldest of these' if preview.is_limited else ''}."
    yield from left_out_lines(preview.left_out)


def left_out_lines(left_out: Mapping[str, int]) -> Iterator[str]:
    """Yield a line for each reason to leave deliveries out."""
    for reason, number in sorted(left_out.items()):
        yield f"Left out: {number:,} {_LEFT_OUT_LABELS.get(reason, reason)}."


def format_resumed(unfinished: Replay) -> str:
    """Return the message about an unfinished replay of the same request."""
    return (
        f"Resuming the replay started {unfinished.started_at:%Y-%m-%d %H:%M} UTC, after its first "
        f"{format_count(unfinished.requeued_deliveries, 'delivery')}. Start over with --restart."
    )
