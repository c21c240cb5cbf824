"""Redelivery of stored deliveries, throttled in favour of new ones."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from app.clock import utc_now
from app.replay.request import ReplayRequest
from app.replay.throttle import AdaptiveWindow, RateLimit
from app.store.replays import DeadRecordCounts, Replay, ReplayOutcome, Replays

_BATCH_SIZE = 200
_MIN_IN_PROGRESS, _MAX_IN_PROGRESS = 400, 2000
_POLL_INTERVAL_S = 0.25
_STALL_S = 60.0
_PROBLEM_STATES = ("dead", "unrouted", "quarantined")


class ReplayObserver(Protocol):
    """Receives the progress of a replay, in the thread that runs it."""

    def on_settled(self, deliveries: int) -> None:
        """Receive the number of deliveries settled since the replay started, earlier runs included."""

    def on_stalled(self, pending: int, stalled_s: float) -> None:
        """Receive the number of deliveries in progress, none of which settled for this many seconds."""


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


class ThrottledReplay:
    """One replay from its cursor to its end. Raises StoreUnavailable.

    Requeues a few deliveries at a time, as workers settle earlier ones, so that new deliveries do not wait.
    Needs a running worker. Several processes may run the same replay: they share the work.
    rate: the largest number of deliveries to requeue a second, None for no limit.
    """

    def __init__(
        self,
        replays: Replays,
        replay: Replay,
        request: ReplayRequest,
        *,
        rate: float | None = None,
        observer: ReplayObserver,
    ) -> None:
        self._replays = replays
        self._replay = replay
        self._request = request
        self._filter = request.resolve_replayable(replay.started_at)
        self._observer = observer
        self._rate_limit = RateLimit(rate, time.monotonic())
        self._window = AdaptiveWindow(_MIN_IN_PROGRESS, _MAX_IN_PROGRESS)
        self._requeued = 0
        self._first_received_at: datetime | None = None
        self._is_finished = False
        self._last_settled = -1
        self._unchanged_since_s = time.monotonic()

    def run(self) -> None:
        """Return once every delivery is requeued and settled.

        May be interrupted by an exception at any time: workers finish the requeued deliveries, and a later
        replay of the same request resumes after them.
        """
        is_exhausted = False
        while True:
            pending = self._replays.count_pending(self._replay)
            self._report_progress(pending)
            limit = self._compute_batch_limit(pending)
            if not is_exhausted and limit:
                is_exhausted = not self._requeue_batch(limit)
            elif is_exhausted and not pending:
                break
            if is_exhausted or limit < _BATCH_SIZE:
                time.sleep(_POLL_INTERVAL_S)
        self._replays.finish(self._replay, now=utc_now())
        self._is_finished = True

    def summarize(self, left_out: Counter[str]) -> ReplaySummary:
        """Return the result so far. left_out: as the preview counted it."""
        # An interruption between a commit and the assignment leaves self._replay behind the database.
        replay = self._replays.refresh(self._replay)
        ids, since, sink = self._filter.ids, self._first_received_at, self._request.sink
        outcomes = self._replays.outcomes(replay, ids=ids, since=since)
        dead = self._replays.count_dead_records(replay, sink=sink, ids=ids, since=since)
        written = self._replays.count_written(replay, sink) if sink else None
        return ReplaySummary(replay, self._is_finished, outcomes, left_out, dead, written)

    def _compute_batch_limit(self, pending: int) -> int:
        now_s = time.monotonic()
        settled = self._replay.requeued_deliveries - pending
        free_slots = self._window.compute_size(now_s, settled) - pending
        # Requeue whole batches: a transaction for a few deliveries costs as much as one for 200.
        batch_size = _BATCH_SIZE if free_slots >= _BATCH_SIZE else 0
        allowed = self._rate_limit.count_allowed(now_s, self._requeued)
        return batch_size if allowed is None else min(batch_size, allowed)

    def _requeue_batch(self, limit: int) -> bool:
        """Requeue up to `limit` deliveries; return False if none is left."""
        if self._request.limit is not None:
            limit = min(limit, self._request.limit - self._replay.requeued_deliveries)
        if limit <= 0:
            return False
        candidates = self._replays.find_candidates(self._filter, after=self._replay.cursor, limit=limit)
        if not candidates:
            # Another process running the same replay may have requeued more: wait for its deliveries too.
            self._replay = self._replays.refresh(self._replay)
            return False
        if self._replay.cursor is None:
            self._first_received_at = candidates[0].received_at
        requeued = self._replays.requeue(self._replay, candidates, sink=self._request.sink, now=utc_now())
        if requeued:
            self._requeued += requeued.requeued_deliveries - self._replay.requeued_deliveries
            self._replay = requeued
        else:
            # Another process has requeued these candidates: continue after them.
            self._replay = self._replays.refresh(self._replay)
        return True

    def _report_progress(self, pending: int) -> None:
        settled, now_s = self._replay.requeued_deliveries - pending, time.monotonic()
        if settled != self._last_settled or not pending:
            self._last_settled, self._unchanged_since_s = settled, now_s
            self._observer.on_settled(settled)
        elif now_s - self._unchanged_since_s > _STALL_S:
            self._unchanged_since_s = now_s
            self._observer.on_stalled(pending, _STALL_S)
