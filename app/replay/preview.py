"""What a replay would take up, and what it would leave out."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from app.cli.common.tables import format_table
from app.store.replays import PreviewGroup

# More than this is not taken up without being asked for once more.
_CONFIRM_ABOVE = 1000


@dataclass(frozen=True, slots=True)
class ReplayPreview:
    """Groups of deliveries. states: those to take up. limit: how many at most."""

    groups: Sequence[PreviewGroup]
    states: Sequence[str]
    limit: int | None

    @property
    def total(self) -> int:
        """How many are to be taken up."""
        total = sum(group.deliveries for group in self._included_groups())
        return total if self.limit is None else min(total, self.limit)

    @property
    def left_out(self) -> Counter[str]:
        """How many of the others there are, by why."""
        reasons: Counter[str] = Counter()
        for group in self.groups:
            if group.is_pruned or group.state not in self.states:
                reasons["pruned" if group.is_pruned else group.state] += group.deliveries
        return reasons

    def as_json(self) -> dict[str, Any]:
        """Return the prospects as `--dry-run --json` prints them."""
        return {
            "deliveries": self.total,
            "groups": [
                {"resource": group.resource, "method": group.method, "state": group.state, "deliveries": n}
                for group in self._included_groups()
                if (n := group.deliveries)
            ],
            "left_out": dict(self.left_out),
        }

    def lines(self) -> Iterator[str]:
        """Yield what a person is shown."""
        rows = [
            (group.resource, group.method, group.state, group.deliveries) for group in self._included_groups()
        ]
        if rows:
            yield from format_table(("resource", "method", "state", "deliveries"), rows)
        limited = sum(row[3] for row in rows) > self.total
        yield f"{self.total:,} deliveries{', the first of these' if limited else ''}."
        yield from left_out_lines(self.left_out)

    def _included_groups(self) -> Iterator[PreviewGroup]:
        yield from (group for group in self.groups if not group.is_pruned and group.state in self.states)


_LEFT_OUT_REASONS = {
    "pruned": "pruned: their bodies are gone",
    "pending": "pending: on their way already",
    "refused": "refused: ask for them with --state refused",
}


def left_out_lines(left_out: Counter[str]) -> Iterator[str]:
    """Say what is left out, and why."""
    for reason, number in sorted(left_out.items()):
        yield f"Left out: {number:,} {_LEFT_OUT_REASONS.get(reason, reason)}."


def confirm_replay(preview: ReplayPreview, action: str, *, yes: bool) -> None:
    """Ask before much is done. what: ends the question."""
    if yes or preview.total <= _CONFIRM_ABOVE:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{preview.total:,} deliveries, and nobody to confirm: pass --yes.")
    for line in preview.lines():
        click.echo(line, err=True)
    click.confirm(f"{action} these {preview.total:,} deliveries?", abort=True, err=True)
