"""Takes deliveries up a few at a time, as workers settle those before; live ones are not to wait for them."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from app.cli.replay.pace import Backlog, Pace
from app.store.delivery_filter import Selection
from app.store.replays import Replay, Replays

# In one transaction.
_BATCH = 200
# What workers have before them of a replay at a time.
_LEAST_PENDING, _MOST_PENDING = 400, 2000
_POLL_S = 0.25
_SILENCE_S = 60.0


class Release:
    """One replay, from where it is to its end.

    sink: the only one to be written, or "". limit: how many the replay is to take up in all. rate: a second.
    progress: told how many are settled by now. warn: told what somebody should know meanwhile.
    """

    def __init__(
        self,
        replays: Replays,
        replay: Replay,
        selection: Selection,
        *,
        sink: str,
        limit: int | None,
        rate: float | None,
        progress: Callable[[int], None],
        warn: Callable[[str], None],
    ) -> None:
        self._replays = replays
        self.replay = replay
        self._selection = selection
        self._sink = sink
        self._limit = limit
        self._pace = Pace(rate, time.monotonic())
        self._backlog = Backlog(_LEAST_PENDING, _MOST_PENDING)
        self._released = 0
        self._progress = progress
        self._warn = warn
        self._settled = -1
        self._silent_since = time.monotonic()

    def run(self) -> None:
        """Return once all is taken up and settled; workers finish what is taken up in any case."""
        is_over = False
        while True:
            pending = self._replays.count_pending(self.replay)
            self._note(pending)
            most = self._most(pending)
            if not is_over and most:
                is_over = not self._take_up(most)
            elif is_over and not pending:
                break
            if is_over or most < _BATCH:
                time.sleep(_POLL_S)
        self._replays.finish(self.replay, now=datetime.now(UTC))

    def _most(self, pending: int) -> int:
        now = time.monotonic()
        room = self._backlog.size(now, self.replay.deliveries - pending) - pending
        allowed = self._pace.allows(now, self._released)
        # A few at a time would cost more transactions than there are deliveries in them.
        return max(0, min(_BATCH if room >= _BATCH else 0, _BATCH if allowed is None else allowed))

    def _take_up(self, most: int) -> bool:
        """Take up as many; False where nothing is left to be taken up."""
        if self._limit is not None:
            most = min(most, self._limit - self.replay.deliveries)
        if most <= 0:
            return False
        candidates = self._replays.candidates(self._selection, after=self.replay.cursor, most=most)
        if not candidates:
            # Another process may have come further with the same.
            self.replay = self._replays.look_again(self.replay)
            return False
        before = self.replay.deliveries
        taken = self._replays.take_up(self.replay, candidates, sink=self._sink, now=datetime.now(UTC))
        # Another process has taken these up: from behind them, it is shared with that.
        self.replay = taken or self._replays.look_again(self.replay)
        self._released += self.replay.deliveries - before if taken else 0
        return True

    def _note(self, pending: int) -> None:
        settled, now = self.replay.deliveries - pending, time.monotonic()
        if settled != self._settled or not pending:
            self._settled, self._silent_since = settled, now
            self._progress(settled)
        elif now - self._silent_since > _SILENCE_S:
            self._silent_since = now
            self._warn(
                f"None of {pending:,} pending deliveries was settled for {_SILENCE_S:.0f} s. "
                "Does a worker run, and do the sinks answer? Waiting all the same."
            )
