"""The planner of loads: puts waiting deliveries into loads, and enqueues the loads."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import structlog

from app.clock import utc_now
from app.config.routes import Routes
from app.config.sinks import LoadSinkConfig
from app.database.engine import Database
from app.redis.queue import LOAD_FUNCTION, LONG_LOAD_FUNCTION, MAX_JOBS, DeliveryQueue
from app.store.held import HeldDeliveries, is_load_scope
from app.store.loads import Loads
from app.store.sink_states import WHOLE_SINK, SinkState, SinkStates
from workers.background.loop import PeriodicTask

_INTERVAL_S = 1.0
# An enqueued load that no worker leased for so long is enqueued again.
_REQUEUE_AFTER_S = 60.0
_MAX_RELEASED = 1024
_MB = 1024 * 1024

log = structlog.get_logger()


class LoadPlanner(PeriodicTask):
    """Begins loads at the size or the age that their sink sets.

    Any number may run, on any number of machines. Loads that may take minutes leave one worker to the others,
    if there are two. A paused sink gets no load; a failing one gets one when its
    breaker allows a trial.
    """

    def __init__(
        self,
        database: Database,
        queue: DeliveryQueue,
        routes: Routes,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__("load_planner", interval_s=_INTERVAL_S)
        self._loads = Loads(database)
        self._held = HeldDeliveries(database)
        self._states = SinkStates(database)
        self._queue = queue
        self._clock = clock
        self._sinks = {name: sink for name, sink in routes.sinks.items() if isinstance(sink, LoadSinkConfig)}

    def run_once(self) -> None:
        """Plan and enqueue the loads of all sinks once."""
        self.run_step("release", self._release_others)
        if self._sinks:
            self.run_step("enqueue", self._plan_and_enqueue)

    def _plan_and_enqueue(self) -> None:
        now = self._clock()
        states = {state.sink: state for state in self._states.list() if state.scope == WHOLE_SINK}
        ready = [name for name in self._sinks if _accepts_load(states.get(name), now)]
        for name in ready:
            self.run_step(f"plan {name}", partial(self._plan, name, now))
        for function in (LOAD_FUNCTION, LONG_LOAD_FUNCTION):
            is_long = function == LONG_LOAD_FUNCTION
            names = [name for name in ready if self._sinks[name].has_long_loads == is_long]
            limit = self._count_free_jobs(now, is_long=is_long) if names else 0
            if limit > 0:
                due = self._loads.lease_due(names, now=now, requeue_after_s=_REQUEUE_AFTER_S, limit=limit)
                self._queue.enqueue_loads(due, function=function)

    def _count_free_jobs(self, now: datetime, *, is_long: bool) -> int:
        """Return how many loads may be enqueued. Long ones leave a worker free."""
        queue = self._queue.read_load()
        free = MAX_JOBS - queue.jobs
        if is_long:
            names = [name for name, sink in self._sinks.items() if sink.has_long_loads]
            in_progress = self._loads.count_in_progress(names, now=now)
            free = min(free, max(1, queue.workers - 1) - in_progress)
        return free

    def _plan(self, name: str, now: datetime) -> None:
        sink = self._sinks[name]
        max_age = timedelta(seconds=sink.max_file_age_s)
        load = self._loads.plan(
            name,
            max_bytes=sink.max_file_mb * _MB,
            max_age=max_age,
            now=now,
            max_open=sink.max_open_loads,
        )
        if load:
            counts = {"deliveries": load.deliveries, "body_bytes": load.body_bytes}
            log.info("load.planned", load=str(load.id), sink=name, **counts)

    def _release_others(self) -> None:
        """Release the deliveries of sinks that are removed, or that write no loads any more."""
        for name in self._held.list_sinks():
            if name not in self._sinks and any(map(is_load_scope, self._held.list_scopes(name))):
                number = self._loads.release_sink(name, limit=_MAX_RELEASED, now=self._clock())
                log.info("deliveries.released", sink=name, table="", deliveries=number)


def _accepts_load(state: SinkState | None, now: datetime) -> bool:
    if state is None or not state.holds:
        return True
    return state.paused_at is None and (state.retry_at is None or state.retry_at <= now)
