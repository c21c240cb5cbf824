"""What a replay would take up, and what it would leave out."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from app.cli.common.tables import table_lines
from app.store.replays import Prospect

# More than this is not taken up without being asked for once more.
_MANY = 1000


@dataclass(frozen=True, slots=True)
class Prospects:
    """Groups of deliveries. states: those to take up. limit: how many at most."""

    groups: Sequence[Prospect]
    states: Sequence[str]
    limit: int | None

    @property
    def total(self) -> int:
        """How many are to be taken up."""
        total = sum(each.deliveries for each in self._taken())
        return total if self.limit is None else min(total, self.limit)

    @property
    def left_out(self) -> Counter[str]:
        """How many of the others there are, by why."""
        reasons: Counter[str] = Counter()
        for each in self.groups:
            if each.is_pruned or each.state not in self.states:
                reasons["pruned" if each.is_pruned else each.state] += each.deliveries
        return reasons

    def as_json(self) -> dict[str, Any]:
        """Return the prospects as `--dry-run --json` prints them."""
        return {
            "deliveries": self.total,
            "groups": [
                {"resource": each.resource, "method": each.method, "state": each.state, "deliveries": n}
                for each in self._taken()
                if (n := each.deliveries)
            ],
            "left_out": dict(self.left_out),
        }

    def lines(self) -> Iterator[str]:
        """Yield what a person is shown."""
        rows = [(each.resource, each.method, each.state, each.deliveries) for each in self._taken()]
        if rows:
            yield from table_lines(("resource", "method", "state", "deliveries"), rows)
        limited = sum(row[3] for row in rows) > self.total
        yield f"{self.total:,} deliveries{', the first of these' if limited else ''}."
        yield from left_out_lines(self.left_out)

    def _taken(self) -> Iterator[Prospect]:
        yield from (each for each in self.groups if not each.is_pruned and each.state in self.states)


_WHY = {
    "pruned": "pruned: their bodies are gone",
    "pending": "pending: on their way already",
    "refused": "refused: ask for them with --state refused",
}


def left_out_lines(left_out: Counter[str]) -> Iterator[str]:
    """Say what is left out, and why."""
    for reason, number in sorted(left_out.items()):
        yield f"Left out: {number:,} {_WHY.get(reason, reason)}."


def confirm(prospects: Prospects, what: str, *, yes: bool) -> None:
    """Ask before much is done. what: ends the question."""
    if yes or prospects.total <= _MANY:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{prospects.total:,} deliveries, and nobody to confirm: pass --yes.")
    for line in prospects.lines():
        click.echo(line, err=True)
    click.confirm(f"{what} these {prospects.total:,} deliveries?", abort=True, err=True)
