"""The releaser: makes held deliveries due when their sink accepts deliveries again."""

import time
from collections.abc import Callable
from datetime import datetime

import structlog

from app.clock import utc_now
from app.database.engine import Database
from app.store.held import HeldDeliveries
from app.store.sink_states import WHOLE_SINK, SinkState, SinkStates
from workers.background.loop import PeriodicTask

_INTERVAL_S = 1.0
# Released and not processed yet: a quarter of the queue, so that new deliveries do not wait for old ones.
_MAX_RELEASED = 1024
_TRIAL_INTERVAL_S = 5.0
_RENEW_INTERVAL_S = 60.0
# An open breaker that no delivery waits for: the routes were corrected. Longer than a job.
_ABANDONED_AFTER_S = 30.0

log = structlog.get_logger()


class Releaser(PeriodicTask):
    """Releases held deliveries in the order of their arrival, a bounded number at a time.

    It compares the deliveries that are held with the states of the sinks, so that a lost release is repeated.
    Any number may run, on any number of machines. For an open breaker whose trial is due, it releases one
    delivery, and twice as many each time if no trial fails: their routes may have changed, so that no worker
    writes this sink any more.
    """

    def __init__(self, database: Database, *, clock: Callable[[], datetime] = utc_now) -> None:
        super().__init__("releaser", interval_s=_INTERVAL_S)
        self._held = HeldDeliveries(database)
        self._states = SinkStates(database)
        self._clock = clock
        # By sink and scope: the failures of the breaker at the last trial, its deliveries and its time.
        self._trials: dict[tuple[str, str], tuple[int, int, float]] = {}
        self._renewed_at_s = -_RENEW_INTERVAL_S

    def run_once(self) -> None:
        """Release deliveries of all sinks once."""
        self.run_step("release", self._release)
        if time.monotonic() - self._renewed_at_s >= _RENEW_INTERVAL_S:
            self.run_step("renew", self._renew)

    def _release(self) -> None:
        now = self._clock()
        held = [(sink, scope) for sink in self._held.list_sinks() for scope in self._held.list_scopes(sink)]
        states = {(state.sink, state.scope): state for state in self._states.list()}
        self._close_abandoned([state for key, state in states.items() if key not in held], now)
        self._trials = {key: trial for key, trial in self._trials.items() if key in held}
        released = self._held.count_released(now=now) if held else 0
        for sink, scope in held:
            whole, state = states.get((sink, WHOLE_SINK)), states.get((sink, scope))
            if whole and whole.paused_at:
                continue
            if state and state.open_since:
                self._held.release(sink, scope, limit=self._count_trials(state, now), now=now)
                continue
            number = self._held.release(sink, scope, limit=_MAX_RELEASED - released, now=now)
            released += number
            if number:
                log.info("deliveries.released", sink=sink, table=scope, deliveries=number)

    def _count_trials(self, state: SinkState, now: datetime) -> int:
        """Return the number of deliveries to release for the trial of an open breaker."""
        key, now_s = (state.sink, state.scope), time.monotonic()
        failures, size, tried_at_s = self._trials.get(key, (state.failures, 0, -_TRIAL_INTERVAL_S))
        if (state.retry_at and state.retry_at > now) or now_s - tried_at_s < _TRIAL_INTERVAL_S:
            return 0
        size = min(2 * size or 1, _MAX_RELEASED) if failures == state.failures else 1
        self._trials[key] = (state.failures, size, now_s)
        return size

    def _close_abandoned(self, states: list[SinkState], now: datetime) -> None:
        """Close breakers that no delivery waits for, and that no worker tries any more."""
        for state in states:
            if state.retry_at and (now - state.retry_at).total_seconds() > _ABANDONED_AFTER_S:
                self._states.close(state)

    def _renew(self) -> None:
        # Last: a failed renewal is repeated.
        self._held.renew(now=self._clock())
        self._renewed_at_s = time.monotonic()
