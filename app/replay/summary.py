"""What became of what a replay took up."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from app.replay.preview import left_out_lines
from app.store.replays import Replay, ReplayOutcome

_PROBLEM_STATES = ("dead", "unrouted", "quarantined")
_STATE_LABELS = {
    "dead": "dead: see why with `rapidbridge dead list`",
    "unrouted": "unrouted: no route takes them",
    "quarantined": "quarantined: they hold no records",
    "pending": "pending: workers finish them",
}
_UNREADABLE_LABEL = "still unreadable"


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """A replay as it ended or was broken off; None where nothing was to do. left_out: how many, by why."""

    replay: Replay | None
    is_finished: bool
    outcomes: Sequence[ReplayOutcome]
    left_out: Counter[str]

    @property
    def has_problems(self) -> bool:
        """Whether something is left to be mended, or to be done."""
        return not self.is_finished or any(outcome.state in _PROBLEM_STATES for outcome in self.outcomes)

    def as_json(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        states = Counter(
            {outcome.state: outcome.deliveries for outcome in self.outcomes if not outcome.is_unreadable}
        )
        return {
            "replay": str(self.replay.id) if self.replay else None,
            "is_finished": self.is_finished,
            "deliveries": self.replay.requeued_deliveries if self.replay else 0,
            "states": dict(states),
            "still_unreadable": sum(outcome.deliveries for outcome in self.outcomes if outcome.is_unreadable),
            "left_out": dict(self.left_out),
        }

    def lines(self) -> Iterator[str]:
        """Yield what a person is told."""
        yield (
            f"{self.replay.requeued_deliveries:,} deliveries replayed:"
            if self.replay
            else "Nothing to replay."
        )
        for outcome in self.outcomes:
            label = (
                _UNREADABLE_LABEL
                if outcome.is_unreadable
                else _STATE_LABELS.get(outcome.state, outcome.state)
            )
            yield f"  {outcome.deliveries:,} {label}"
        yield from left_out_lines(self.left_out)
