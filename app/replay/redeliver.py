"""Takes deliveries up a few at a time, as workers settle those before; live ones are not to wait for them."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from app.replay.throttle import AdaptiveWindow, RateLimit
from app.store.delivery_filter import DeliveryFilter
from app.store.replays import Replay, Replays

# In one transaction.
_BATCH_SIZE = 200
# What workers have before them of a replay at a time.
_MIN_PENDING, _MAX_PENDING = 400, 2000
_POLL_INTERVAL_S = 0.25
_STALL_WARNING_S = 60.0


class ThrottledReplay:
    """One replay, from where it is to its end.

    sink: the only one to be written, or "". limit: how many the replay is to take up in all. rate: a second.
    progress: told how many are settled by now. warn: told what somebody should know meanwhile.
    """

    def __init__(
        self,
        replays: Replays,
        replay: Replay,
        delivery_filter: DeliveryFilter,
        *,
        sink: str,
        limit: int | None,
        rate: float | None,
        progress: Callable[[int], None],
        warn: Callable[[str], None],
    ) -> None:
        self._replays = replays
        self.replay = replay
        self._filter = delivery_filter
        self._sink = sink
        self._limit = limit
        self._rate_limit = RateLimit(rate, time.monotonic())
        self._window = AdaptiveWindow(_MIN_PENDING, _MAX_PENDING)
        self._requeued = 0
        self._progress = progress
        self._warn = warn
        self._last_settled = -1
        self._unchanged_since_s = time.monotonic()

    def run(self) -> None:
        """Return once all is taken up and settled; workers finish what is taken up in any case."""
        is_exhausted = False
        while True:
            pending = self._replays.count_pending(self.replay)
            self._report_progress(pending)
            limit = self._compute_batch_limit(pending)
            if not is_exhausted and limit:
                is_exhausted = not self._requeue_batch(limit)
            elif is_exhausted and not pending:
                break
            if is_exhausted or limit < _BATCH_SIZE:
                time.sleep(_POLL_INTERVAL_S)
        self._replays.finish(self.replay, now=datetime.now(UTC))

    def _compute_batch_limit(self, pending: int) -> int:
        now = time.monotonic()
        free_slots = self._window.compute_size(now, self.replay.requeued_deliveries - pending) - pending
        allowed = self._rate_limit.count_allowed(now, self._requeued)
        # A few at a time would cost more transactions than there are deliveries in them.
        return max(
            0,
            min(_BATCH_SIZE if free_slots >= _BATCH_SIZE else 0, _BATCH_SIZE if allowed is None else allowed),
        )

    def _requeue_batch(self, limit: int) -> bool:
        """Take up as many; False where nothing is left to be taken up."""
        if self._limit is not None:
            limit = min(limit, self._limit - self.replay.requeued_deliveries)
        if limit <= 0:
            return False
        candidates = self._replays.find_candidates(self._filter, after=self.replay.cursor, limit=limit)
        if not candidates:
            # Another process may have come further with the same.
            self.replay = self._replays.refresh(self.replay)
            return False
        before = self.replay.requeued_deliveries
        requeued = self._replays.requeue(self.replay, candidates, sink=self._sink, now=datetime.now(UTC))
        # Another process has taken these up: from behind them, it is shared with that.
        self.replay = requeued or self._replays.refresh(self.replay)
        self._requeued += self.replay.requeued_deliveries - before if requeued else 0
        return True

    def _report_progress(self, pending: int) -> None:
        settled, now = self.replay.requeued_deliveries - pending, time.monotonic()
        if settled != self._last_settled or not pending:
            self._last_settled, self._unchanged_since_s = settled, now
            self._progress(settled)
        elif now - self._unchanged_since_s > _STALL_WARNING_S:
            self._unchanged_since_s = now
            self._warn(
                f"None of {pending:,} pending deliveries was settled for {_STALL_WARNING_S:.0f} s. "
                "Does a worker run, and do the sinks answer? Waiting all the same."
            )
