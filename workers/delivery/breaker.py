"""Breakers of sinks, shared by all workers: hold deliveries of paused and failing sinks."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import structlog

from app.clock import utc_now
from app.database.engine import Database
from app.errors import JobTimeout, SinkRefused, SinkUnavailable, StoreUnavailable
from app.logs import FaultLog
from app.store.reasons import Reason
from app.store.sink_states import WHOLE_SINK, SinkState, SinkStates

# Consecutive failures in one process. A slow failure opens the breaker by itself: it costs a worker seconds.
_MAX_FAILURES = 3
_SLOW_FAILURE_S = 2.0
_FIRST_RETRY_S = 5.0
_MAX_RETRY_S = 60.0
# An unresponsive sink takes at most a fifth of a worker's time.
_RETRY_FACTOR = 4.0
# No job, so no failure, takes longer: the rest is a pause of this process, and not the sink's fault.
_MAX_FAILURE_S = 25.0
# A trial ends with its job. A worker that dies during it delays the next trial by this.
_TRIAL_LEASE = timedelta(seconds=30)
# The timeout of a statement: a sink that answers at all answers by then.
_SINK_TIMEOUT_S = 15.0
# A delivery waits for a reading of the states only if none followed an earlier job.
_REFRESH_INTERVAL_S = 1.0
_REFRESH_AFTER_JOB_S = 0.5
_WRITES_INTERVAL_S = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Hold:
    """The reason why a delivery is not written to a sink now. scope: of the state that holds it."""

    scope: str
    reason: str
    message: str


class SinkBreaker:
    """Decides which sinks a worker writes, by the states that all workers share.

    While the store is unavailable, the last known states apply, and this worker's own failures. A scope is
    WHOLE_SINK or one table of a sink. clock: of the store's times; monotonic: in seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = SinkStates(database)
        self._clock = clock
        self._monotonic = monotonic
        self._states: dict[tuple[str, str], SinkState] = {}
        self._read_at_s: float | None = None
        self._failures: dict[str, int] = {}
        self._timed_out: dict[str, UUID] = {}
        self._written_at: dict[str, datetime] = {}
        self._saved_at_s: float | None = None
        self._fault = FaultLog("sink_states.unavailable", "sink_states.available")

    def find_hold(self, sink: str, table: str) -> Hold | None:
        """Return the reason to hold a delivery; None if it may be written, perhaps as a trial."""
        self._refresh(_REFRESH_INTERVAL_S)
        now = self._clock()
        whole = self._states.get((sink, WHOLE_SINK))
        if whole and whole.paused_at:
            cause = f": {whole.pause_reason}" if whole.pause_reason else ""
            return Hold(WHOLE_SINK, Reason.SINK_PAUSED, f"the sink is paused{cause}")
        # A load concerns the whole sink: one state, and one claim.
        states = [self._states.get((sink, scope)) for scope in dict.fromkeys((WHOLE_SINK, table))]
        is_open = [state for state in states if state and state.open_since and state.retry_at]
        # All before any is claimed: a trial that its table holds would be lost for the other tables.
        waiting = (state for state in is_open if state.retry_at and state.retry_at > now)
        of_others = (state for state in is_open if not self._claim_trial(state, now))
        state = next(waiting, None) or next(of_others, None)
        if state is None:
            return None
        return Hold(state.scope, state.reason, f"not tried, because the sink fails: {state.message}")

    def is_closed(self, sink: str, table: str) -> bool:
        """Whether neither a sink nor its table is paused or fails. Claims no trial."""
        self._refresh(_REFRESH_INTERVAL_S)
        states = (self._states.get((sink, scope)) for scope in (WHOLE_SINK, table))
        return not any(state and (state.paused_at or state.open_since) for state in states)

    def record_success(self, sink: str, table: str) -> None:
        """Close the breakers of a sink and its table: a batch was written."""
        self._written_at[sink] = self._clock()
        self._close(sink, WHOLE_SINK, table)

    def record_failure(
        self, sink: str, table: str, error: SinkUnavailable | JobTimeout, *, delivery_id: UUID, took_s: float
    ) -> tuple[str, Hold | None]:
        """Return the reason of a failure, and the hold if its breaker is open now.

        Without a hold, the failure may be the delivery's own. took_s: the duration of the failed write.
        """
        if isinstance(error, SinkRefused):
            # The sink answered: its other tables may be written.
            self._close(sink, WHOLE_SINK)
            return error.reason, self._open(sink, table, error.reason, error, took_s=0.0)
        if self._is_batch_timeout(error, took_s):
            # A lock, for example: only two deliveries in a row show that the sink itself fails.
            if self._timed_out.setdefault(sink, delivery_id) == delivery_id:
                return Reason.BATCH_TIMEOUT, None
            took_s = max(took_s, _SLOW_FAILURE_S)
        self._failures[sink] = self._failures.get(sink, 0) + 1
        state = self._states.get((sink, WHOLE_SINK))
        is_open = state is not None and state.open_since is not None
        # A sink that names a time means all deliveries.
        may_be_tried = took_s < _SLOW_FAILURE_S and not error.retry_after_s
        if not is_open and may_be_tried and self._failures[sink] < _MAX_FAILURES:
            return Reason.SINK_UNAVAILABLE, None
        hold = self._open(sink, WHOLE_SINK, Reason.SINK_UNAVAILABLE, error, took_s=took_s)
        return Reason.SINK_UNAVAILABLE, hold

    def save_writes(self) -> None:
        """Store the times of this worker's last writes, and read the states; every few seconds at most."""
        self._refresh(_REFRESH_AFTER_JOB_S)
        now_s = self._monotonic()
        is_due = self._saved_at_s is None or now_s - self._saved_at_s >= _WRITES_INTERVAL_S
        if self._written_at and is_due:
            self._saved_at_s = now_s
            written_at, self._written_at = self._written_at, {}
            self._is_stored(lambda: self._store.record_writes(written_at))

    def _close(self, sink: str, *scopes: str) -> None:
        """Close breakers of a sink that has answered."""
        self._failures.pop(sink, None)
        self._timed_out.pop(sink, None)
        for scope in scopes:
            state = self._states.get((sink, scope))
            if state and state.open_since:
                failing_s = round((self._clock() - state.open_since).total_seconds())
                self._states[sink, scope] = replace(state, open_since=None, retry_at=None, failures=0)
                if self._is_stored(partial(self._store.close, state)):
                    log.info("sink.closed", sink=sink, table=scope, failing_s=failing_s)

    def _open(self, sink: str, scope: str, reason: str, error: Exception, *, took_s: float) -> Hold:
        now = self._clock()
        earlier = self._states.get((sink, scope)) or SinkState(sink, scope)
        retry_s = max(
            min(_MAX_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(earlier.failures, 10)),
            _RETRY_FACTOR * min(took_s, _MAX_FAILURE_S) if took_s > _SLOW_FAILURE_S else 0.0,
            getattr(error, "retry_after_s", None) or 0.0,
        )
        state = replace(
            earlier,
            open_since=earlier.open_since or now,
            retry_at=now + timedelta(seconds=retry_s),
            failures=earlier.failures + 1,
            reason=reason,
            message=str(error),
        )
        self._states[sink, scope] = state
        is_stored = self._is_stored(lambda: self._store.record_failure(state, now=now))
        if is_stored and not earlier.open_since:
            log.warning("sink.opened", sink=sink, table=scope, reason=reason, error=str(error))
        return Hold(scope, reason, str(error))

    def _claim_trial(self, state: SinkState, now: datetime) -> bool:
        is_claimed = True
        try:
            is_claimed = self._store.claim_trial(state, now=now, lease=_TRIAL_LEASE)
        except StoreUnavailable as error:
            self._fault.add(str(error))
        # Claimed by another worker, the next trial is not due either.
        self._states[state.sink, state.scope] = replace(state, retry_at=now + _TRIAL_LEASE)
        return is_claimed

    def _refresh(self, interval_s: float) -> None:
        now_s = self._monotonic()
        if self._read_at_s is not None and now_s - self._read_at_s < interval_s:
            return
        self._read_at_s = now_s
        try:
            states = {(state.sink, state.scope): state for state in self._store.list()}
        except StoreUnavailable as error:
            self._fault.add(str(error))
            return
        self._fault.end()
        before, self._states = _list_paused(self._states), states
        paused = _list_paused(states)
        for sink in sorted(paused - before):
            log.info("sink.paused", sink=sink, by=states[sink, WHOLE_SINK].paused_by)
        for sink in sorted(before - paused):
            log.info("sink.resumed", sink=sink)

    def _is_stored(self, write: Callable[[], object]) -> bool:
        """Write to the store; return False if it is unavailable, because the caller can do without it."""
        try:
            write()
        except StoreUnavailable as error:
            self._fault.add(str(error))
            return False
        return True

    @staticmethod
    def _is_batch_timeout(error: SinkUnavailable | JobTimeout, took_s: float) -> bool:
        if isinstance(error, SinkUnavailable):
            return error.is_batch_timeout
        # The job may have ended before the sink's own timeout.
        return took_s < _SINK_TIMEOUT_S


def _list_paused(states: Mapping[tuple[str, str], SinkState]) -> set[str]:
    return {sink for (sink, scope), state in states.items() if scope == WHOLE_SINK and state.paused_at}
