"""The marker of deletes: carries out the delete checks of reconciled runs in the sinks."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from app.clock import utc_now
from app.config.routes import Route, Routes
from app.database.engine import Database
from app.errors import SinkUnavailable
from app.runs.delete_checks import (
    build_held_notification,
    exceeds_share,
    find_tracking_route,
    list_tracking_sinks,
)
from app.sinks.registry import SinkRegistry
from app.sinks.sql.sink import SqlSink
from app.sinks.sql.unseen_rows import RowCounts, RunScope
from app.store.delete_checks import DeleteCheck, DeleteChecks, DeleteCheckState, HoldReason
from app.store.runs import Runs, StoredRun
from app.store.sink_states import SinkStates
from workers.background.loop import PeriodicTask

_INTERVAL_S = 5.0
_RETRY_AFTER = timedelta(seconds=30)
_MAX_CHECKS = 100

log = structlog.get_logger()


class DeleteMarker(PeriodicTask):
    """Marks the rows that a run did not see, or holds that back.

    Any number may run, on any number of machines: each check is leased by one of them, and is continued by
    another after a crash. owner: the name of this process, unique.
    """

    def __init__(
        self, database: Database, routes: Routes, *, owner: str, clock: Callable[[], datetime] = utc_now
    ) -> None:
        super().__init__("deletes", interval_s=_INTERVAL_S)
        self._routes = routes
        self._owner = owner
        self._clock = clock
        self._sinks = SinkRegistry(routes)
        self._runs = Runs(database)
        self._checks = DeleteChecks(database)
        self._states = SinkStates(database)

    def run_once(self) -> None:
        """Carry out every check that is due."""
        due = self._checks.list_due(now=self._clock(), limit=_MAX_CHECKS)
        self.run_each("check", ((str(check.id), partial(self._carry_out, check)) for check in due))

    def close(self) -> None:
        """Close the sinks."""
        self._sinks.close()

    def _carry_out(self, due: DeleteCheck) -> None:
        check = self._checks.lease(due.id, owner=self._owner, now=self._clock())
        run = self._runs.get(due.sync_job_run_id)
        if not check or not run:
            return
        route = find_tracking_route(run, self._routes, check.resource, check.method)
        if route is None or not self._tracks(route, check):
            self._checks.supersede(check, HoldReason.NOT_TRACKED, now=self._clock())
        elif reason := self._find_wait(check, run):
            self._postpone(check, reason)
        else:
            try:
                self._mark(check, run, route)
            except SinkUnavailable as error:
                self._postpone(check, HoldReason.SINK_UNAVAILABLE, str(error))

    def _tracks(self, route: Route, check: DeleteCheck) -> bool:
        # The rows of the run are in the table that the route had then.
        return route.table == check.route_table and check.sink in list_tracking_sinks(route, self._routes)

    def _find_wait(self, check: DeleteCheck, run: StoredRun) -> HoldReason | None:
        """Return the reason why a check waits; None if it can be carried out."""
        # A batch that was received before the end may show a record that the run did not see.
        until = run.last_seen_at or run.first_seen_at
        if run.reconciled_at is None or self._checks.has_pending(check, until=until):
            return HoldReason.PENDING
        return self._find_sink_hold(check.sink)

    def _find_sink_hold(self, sink: str) -> HoldReason | None:
        states = [state for state in self._states.list() if state.sink == sink]
        if any(state.paused_at for state in states):
            return HoldReason.SINK_PAUSED
        return HoldReason.SINK_UNAVAILABLE if any(state.open_since for state in states) else None

    def _mark(self, check: DeleteCheck, run: StoredRun, route: Route) -> None:
        sink = self._sinks.open(check.sink)
        if not isinstance(sink, SqlSink):
            raise TypeError(f"sink {check.sink} is no SQL sink")
        scope = RunScope(
            check.integrated_account_id, check.sync_job_id, check.sync_job_run_id, check.began_at
        )
        counts = self._find_rows_of_job(sink.count_live_rows(check.resource, route, scope), check)
        live, unseen = sum(c.live for c in counts), sum(c.unseen for c in counts)
        is_allowed = check.started_at is not None or check.approved_at is not None
        if not is_allowed and exceeds_share(
            live_rows=live, unseen_rows=unseen, max_share=route.max_deleted_share
        ):
            self._hold_back(check, run, live_rows=live, unseen_rows=unseen)
            return
        # Continued: the counts of the first attempt stay.
        if check.started_at is None and not self._checks.start(
            check, live_rows=live, unseen_rows=unseen, now=self._clock()
        ):
            return
        runs_of_job = sorted(c.run for c in counts if not c.job and c.unseen)
        for _ in sink.mark_unseen_rows(check.resource, route, scope, runs_of_job):
            if not self._checks.renew(check, now=self._clock()):
                return
            if hold := self._find_sink_hold(check.sink):
                self._postpone(check, hold)
                return
        marked = sink.count_marked_rows(check.resource, route, scope)
        if self._checks.finish(check, marked_rows=marked, now=self._clock()):
            log.info("deletes.marked", **_describe(check), rows=marked)

    def _find_rows_of_job(self, counts: list[RowCounts], check: DeleteCheck) -> list[RowCounts]:
        """Return the counts of the rows whose newest version came from a run of the check's job."""
        without_job = {c.run for c in counts if not c.job}
        of_job = self._checks.find_runs_of_job(check.sync_job_id, without_job) if without_job else set()
        return [c for c in counts if c.job == check.sync_job_id or (not c.job and c.run in of_job)]

    def _hold_back(self, check: DeleteCheck, run: StoredRun, *, live_rows: int, unseen_rows: int) -> None:
        held = replace(
            check,
            state=DeleteCheckState.HELD_BACK,
            reason=HoldReason.OVER_SHARE,
            live_rows=live_rows,
            unseen_rows=unseen_rows,
        )
        notification = build_held_notification(run, [held], now=self._clock())
        if notification and self._checks.hold_back(held, notification=notification):
            log.warning("deletes.held", **_describe(check), reason=str(held.reason), rows=unseen_rows)

    def _postpone(self, check: DeleteCheck, reason: HoldReason, message: str = "") -> None:
        self._checks.postpone(check, reason, message=message, until=self._clock() + _RETRY_AFTER)


def _describe(check: DeleteCheck) -> dict[str, str]:
    return {
        "check": str(check.id),
        "run": check.sync_job_run_id,
        "resource": check.resource,
        "sink": check.sink,
    }
