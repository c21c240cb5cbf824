"""The releaser: makes held deliveries due when their sink accepts deliveries again."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

import structlog

from app.clock import utc_now
from app.database.engine import Database
from app.store.held import HeldDeliveries, is_load_scope
from app.store.models import DeliveryPriority
from app.store.sink_states import WHOLE_SINK, SinkState, SinkStates
from workers.background.loop import PeriodicTask

_INTERVAL_S = 1.0
# Of one priority, released and not processed yet: a quarter of the queue, so that new deliveries do not wait
# for old ones.
_MAX_RELEASED = 1024
# Of a slow sink: half of the workers hold them again, and should have time for others.
_MAX_RELEASED_SLOW = 128
_TRIAL_INTERVAL_S = 5.0
_RENEW_INTERVAL_S = 60.0
# An open breaker that no delivery waits for: the routes were corrected. Longer than a job.
_ABANDONED_AFTER_S = 30.0

log = structlog.get_logger()


class Releaser(PeriodicTask):
    """Releases held deliveries in the order of their arrival, a bounded number at a time.

    Live and replayed deliveries have a budget each, and all sinks an equal share of it: a slow sink, or a
    replay, does not delay the deliveries of others.

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
        self._round = 0

    def run_once(self) -> None:
        """Release deliveries of all sinks once."""
        self.run_step("release", self._release)
        if time.monotonic() - self._renewed_at_s >= _RENEW_INTERVAL_S:
            self.run_step("renew", self._renew)

    def _release(self) -> None:
        now = self._clock()
        scopes = {(sink, scope) for sink in self._held.list_sinks() for scope in self._held.list_scopes(sink)}
        keys = {(sink, scope) for sink, scope in scopes if not is_load_scope(scope)}
        # A load tries the breaker of its whole sink.
        tried = keys | {(sink, WHOLE_SINK) for sink, _ in scopes - keys}
        states = {(state.sink, state.scope): state for state in self._states.list()}
        self._close_abandoned([state for key, state in states.items() if key not in tried], now)
        self._trials = {key: trial for key, trial in self._trials.items() if key in keys}
        slow = {state.sink for state in states.values() if state.is_slow(now)}
        accepting: dict[str, list[str]] = {}
        for sink, scope in sorted(keys):
            whole = states.get((sink, WHOLE_SINK))
            if whole and whole.paused_at:
                continue
            # A trial of a table is one of its sink as well.
            failing = [state for state in (whole, states.get((sink, scope))) if state and state.open_since]
            if failing:
                limit = self._count_trials((sink, scope), failing, now)
                self._held.release(sink, scope, limit=limit, now=now)
            else:
                accepting.setdefault(sink, []).append(scope)
        self._round += 1
        for priority in DeliveryPriority if accepting else ():
            self._release_accepted(accepting, priority, now, slow=slow)

    def _release_accepted(
        self,
        accepting: Mapping[str, Sequence[str]],
        priority: DeliveryPriority,
        now: datetime,
        *,
        slow: Collection[str],
    ) -> None:
        """Release deliveries of one priority, an equal share for each sink, which its scopes divide."""
        waiting = self._held.count_released(priority, now=now)
        share = max(1, _MAX_RELEASED // len(accepting.keys() | waiting.keys()))
        for sink, scopes in accepting.items():
            free = min(share, _MAX_RELEASED_SLOW if sink in slow else share) - waiting.get(sink, 0)
            # In turn: a small rest must not always go to the same one.
            first = self._round % len(scopes)
            for number_before, scope in enumerate([*scopes[first:], *scopes[:first]]):
                limit = math.ceil(free / (len(scopes) - number_before))
                number = self._held.release(sink, scope, limit=limit, now=now, priority=priority)
                free -= number
                if number:
                    log.info(
                        "deliveries.released",
                        sink=sink,
                        table=scope,
                        priority=priority.name.lower(),
                        deliveries=number,
                    )

    def _count_trials(self, key: tuple[str, str], failing: Sequence[SinkState], now: datetime) -> int:
        """Return the number of deliveries to release for the trial of these open breakers."""
        now_s, failures_now = time.monotonic(), sum(state.failures for state in failing)
        failures, size, tried_at_s = self._trials.get(key, (failures_now, 0, -_TRIAL_INTERVAL_S))
        is_due = all(state.retry_at is None or state.retry_at <= now for state in failing)
        if not is_due or now_s - tried_at_s < _TRIAL_INTERVAL_S:
            return 0
        size = min(2 * size or 1, _MAX_RELEASED) if failures == failures_now else 1
        self._trials[key] = (failures_now, size, now_s)
        return size

    def _close_abandoned(self, states: list[SinkState], now: datetime) -> None:
        """Close breakers that no delivery waits for, and that no worker tries any more."""
        for state in states:
            if (
                state.open_since
                and state.retry_at
                and (now - state.retry_at).total_seconds() > _ABANDONED_AFTER_S
            ):
                self._states.close_abandoned(state)

    def _renew(self) -> None:
        # Last: a failed renewal is repeated.
        self._held.renew(now=self._clock())
        self._renewed_at_s = time.monotonic()
