"""The result of a replay: its deliveries by state, and their dead records."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from app.store.replays import DeadRecordCounts, Replay, ReplayOutcome, Replays

_PROBLEM_STATES = ("dead", "unrouted", "quarantined")


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """The result of a replay, finished or interrupted.

    replay: None if there was nothing to replay. outcomes: the replayed deliveries, by their state now.
    dead: the dead records of the settled ones, of the request's `sink` only if it has one. left_out: the
    matching deliveries that were not replayed, "pruned" or by state. written: with a `sink` in the request,
    the replayed deliveries that it has; else None.
    """

    replay: Replay | None
    is_finished: bool
    outcomes: Sequence[ReplayOutcome]
    left_out: Counter[str]
    dead: DeadRecordCounts = field(default_factory=DeadRecordCounts)
    written: int | None = None

    @property
    def deliveries(self) -> int:
        """The number of replayed deliveries."""
        return self.replay.requeued_deliveries if self.replay else 0

    @property
    def has_problems(self) -> bool:
        """Whether it was interrupted, a delivery or record has failed, or the only sink to write got none."""
        has_failed = any(outcome.state in _PROBLEM_STATES for outcome in self.outcomes) or self.dead.records
        return not self.is_finished or bool(has_failed or (self.deliveries and self.written == 0))

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return {
            "replay": str(self.replay.id) if self.replay else None,
            "is_finished": self.is_finished,
            "deliveries": self.deliveries,
            "states": {
                outcome.state: outcome.deliveries for outcome in self.outcomes if not outcome.is_unreadable
            },
            "still_unreadable": sum(outcome.deliveries for outcome in self.outcomes if outcome.is_unreadable),
            "dead_records": self.dead.records,
            "with_dead_records": self.dead.deliveries,
            "left_out": dict(self.left_out),
            **({} if self.written is None else {"written": self.written}),
        }


def summarize_replay(
    replays: Replays, replay_id: UUID, *, sink: str, left_out: Counter[str], is_finished: bool
) -> ReplaySummary:
    """Return the result of a replay so far; raises StoreUnavailable.

    sink: the only sink that it writes to, "" for all. left_out: as the preview counted it.
    """
    replay = replays.get(replay_id)
    if replay is None:
        return ReplaySummary(None, is_finished, [], left_out)
    outcomes = replays.outcomes(replay_id)
    dead = replays.count_dead_records(replay, sink=sink)
    written = replays.count_written(replay, sink) if sink else None
    return ReplaySummary(replay, is_finished, outcomes, left_out, dead, written)
