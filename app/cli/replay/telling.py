"""What became of what a replay took up."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from app.cli.replay.prospects import left_out_lines
from app.store.replays import Ending, Replay

_BAD = ("dead", "unrouted", "quarantined")
_MEANINGS = {
    "dead": "dead: see why with `rapidbridge dead list`",
    "unrouted": "unrouted: no route takes them",
    "quarantined": "quarantined: they hold no records",
    "pending": "pending: workers finish them",
}
_UNREADABLE = "still unreadable"


@dataclass(frozen=True, slots=True)
class Result:
    """A replay as it ended or was broken off; None where nothing was to do. left_out: how many, by why."""

    replay: Replay | None
    is_finished: bool
    endings: Sequence[Ending]
    left_out: Counter[str]

    @property
    def is_bad_news(self) -> bool:
        """Whether something is left to be mended, or to be done."""
        return not self.is_finished or any(each.state in _BAD for each in self.endings)

    def as_json(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        states = Counter({each.state: each.deliveries for each in self.endings if not each.is_unreadable})
        return {
            "replay": str(self.replay.id) if self.replay else None,
            "is_finished": self.is_finished,
            "deliveries": self.replay.deliveries if self.replay else 0,
            "states": dict(states),
            "still_unreadable": sum(each.deliveries for each in self.endings if each.is_unreadable),
            "left_out": dict(self.left_out),
        }

    def lines(self) -> Iterator[str]:
        """Yield what a person is told."""
        yield f"{self.replay.deliveries:,} deliveries replayed:" if self.replay else "Nothing to replay."
        for each in self.endings:
            word = _UNREADABLE if each.is_unreadable else _MEANINGS.get(each.state, each.state)
            yield f"  {each.deliveries:,} {word}"
        yield from left_out_lines(self.left_out)
