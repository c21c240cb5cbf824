"""Monitoring of runs: reconciliation, stalls, and stops at limits."""

import time
from datetime import datetime, timedelta
from functools import partial

import structlog

from app.config.routes import Routes
from app.database.engine import Database
from app.errors import QueueUnavailable
from app.redis.spool import Spool
from app.runs.delete_checks import build_delete_checks, build_held_notification
from app.runs.limits import find_exceeded_limit, has_limits
from app.runs.notifications import (
    build_end_notifications,
    build_stalled_notification,
    build_stop_notification,
)
from app.runs.reconcile import reconcile_run, reconcile_stored
from app.runs.reconciliation import Reconciliation
from app.runs.refresh import RunRefresher
from app.runs.unsent_events import find_unsent_events
from app.runs.usual_interval import ACTIVE_STATUSES
from app.store.delete_checks import DeleteCheck, DeleteChecks
from app.store.notifications import Notifications
from app.store.runs import Runs, StoredRun
from workers.background.truto_poller import TrutoPoller

# Deliveries of a run arrive in bursts. While records are in flight, its reconciliation waits longer.
QUIET_PERIOD_S = 30.0
_ABANDONED_AFTER_S = 24 * 3600.0
# Reconciling a run of very many pages is slow: limits may take this fraction of the time.
_COUNT_INTERVAL_FACTOR = 10
# In one round: a request to Truto may take seconds.
_MAX_STOPS = 100

log = structlog.get_logger()


class RunMonitor:
    """Checks unreconciled runs one by one. Raises StoreUnavailable.

    stalled_after_s: the silence after which a run that has not ended counts as stalled.
    """

    def __init__(
        self, database: Database, routes: Routes, spool: Spool, truto: TrutoPoller, *, stalled_after_s: float
    ) -> None:
        self._database = database
        self._routes = routes
        self._spool = spool
        self._truto = truto
        self._stalled_after_s = stalled_after_s
        self._runs = Runs(database)
        self._delete_checks = DeleteChecks(database)
        self._notifications = Notifications(database)
        self._stalled_run_ids: set[str] = set()
        self._next_count_at: dict[str, datetime] = {}

    def begin_round(self, *, now: datetime) -> None:
        """Load the state that all runs of this round share."""
        self._stalled_run_ids = {
            notification.subject for notification in self._notifications.list_open("run.stalled")
        }
        self._next_count_at = {run_id: until for run_id, until in self._next_count_at.items() if until > now}

    def check_run(self, run: StoredRun, *, now: datetime) -> None:
        """Reconcile a run that has ended; check an open one for its end, a stall and limits."""
        silent_s = (now - (run.last_seen_at or run.first_seen_at)).total_seconds()
        if run.has_ended:
            if silent_s > QUIET_PERIOD_S and not self._has_pending_deliveries(run):
                self._reconcile_run(run, now)
            return
        sends_end = "end" not in find_unsent_events(run)
        if silent_s > self._stalled_after_s:
            self._report_stall(run, silent_s, now, is_end_expected=sends_end or self._truto.has_token)
        else:
            self._close_stall(run, now)
        if silent_s > (self._stalled_after_s if sends_end else QUIET_PERIOD_S):
            run = self._refresh_run(run, now)
        if not run.has_ended:
            # Without its end, a run that is idle cannot be told from one that has ended.
            idle_s = silent_s if sends_end or self._truto.has_token else 0.0
            self._check_limits(run, idle_s, now)

    def send_stops(self, *, now: datetime) -> None:
        """Send the stops of runs that a limit or an operator requested."""
        for run in self._runs.list_unsent_stops(limit=_MAX_STOPS):
            self._stop_run(run, now)

    def _has_pending_deliveries(self, run: StoredRun) -> bool:
        """Whether the run has pending deliveries, or the spool holds any: their runs are unknown."""
        try:
            return self._runs.has_pending(run.sync_job_run_id) or self._spool.count() > 0
        except QueueUnavailable:
            # Spooled deliveries are lost or return with Redis; until then only the inbox is known.
            return False

    def _reconcile_run(self, run: StoredRun, now: datetime) -> None:
        if run.sync_job_run_id in self._next_count_at:
            return
        counted = self._count_run(run, now)
        if counted.verdict == "settling":
            return
        on_error = partial(self._truto.log_error, run.sync_job_run_id)
        refreshed = self._truto.request(
            run.sync_job_run_id,
            lambda api: reconcile_run(
                self._database, run, RunRefresher(self._runs, api), now=now, on_error=on_error
            ),
        )
        run, reconciliation = refreshed or (run, counted)
        if reconciliation.verdict == "settling":
            return
        notifications = build_end_notifications(run, reconciliation, now=now)
        checks = self._build_delete_checks(run, reconciliation, now)
        if held := build_held_notification(run, checks, now=now):
            notifications.append(held)
        if self._runs.mark_reconciled(run, now=now, notifications=notifications, delete_checks=checks):
            self._close_stall(run, now)
            log.info(
                "run.reconciled",
                run=run.sync_job_run_id,
                status=run.status,
                verdict=reconciliation.verdict,
                arrived=sum(counts.arrived for counts in reconciliation.resources),
                missing=sum(counts.missing for counts in reconciliation.resources),
                record_errors=reconciliation.record_errors,
            )

    def _build_delete_checks(
        self, run: StoredRun, reconciliation: Reconciliation, now: datetime
    ) -> list[DeleteCheck]:
        if not any(route.track_deletes for route in self._routes.routes):
            return []
        # The first delivery that a worker processed need not be the first one that was received.
        received_at = self._delete_checks.find_first_received(run.sync_job_run_id)
        began_at = min(run.first_seen_at, received_at or run.first_seen_at)
        return build_delete_checks(run, reconciliation, self._routes, began_at=began_at, now=now)

    def _close_stall(self, run: StoredRun, now: datetime) -> None:
        if run.sync_job_run_id in self._stalled_run_ids:
            self._notifications.close("run.stalled", run.sync_job_run_id, now=now)

    def _refresh_run(self, run: StoredRun, now: datetime) -> StoredRun:
        """Return a run as Truto's API knows it, at most every five minutes."""
        if not self._truto.claim_turn(run.sync_job_run_id, now):
            return run
        refreshed = self._truto.request(
            run.sync_job_run_id,
            lambda api: RunRefresher(self._runs, api).refresh(run.sync_job_run_id, now=now),
        )
        return refreshed or run

    def _report_stall(self, run: StoredRun, silent_s: float, now: datetime, *, is_end_expected: bool) -> None:
        if run.status in ACTIVE_STATUSES and is_end_expected:
            notification = build_stalled_notification(run, silent_s=silent_s, now=now)
            if self._notifications.open(notification):
                log.warning("run.stalled", run=run.sync_job_run_id, silent_s=round(silent_s))
        if silent_s > _ABANDONED_AFTER_S and self._runs.mark_reconciled(run, now=now):
            log.warning("run.abandoned", run=run.sync_job_run_id, silent_s=round(silent_s))

    def _check_limits(self, run: StoredRun, silent_s: float, now: datetime) -> None:
        is_due = run.sync_job_run_id not in self._next_count_at
        if run.stop_reason or not has_limits(self._routes) or not is_due:
            return
        reason = find_exceeded_limit(run, self._count_run(run, now), self._routes, silent_s=silent_s)
        if reason and self._runs.request_stop(run.sync_job_run_id, reason):
            log.warning("run.limit_exceeded", run=run.sync_job_run_id, reason=reason)

    def _count_run(self, run: StoredRun, now: datetime) -> Reconciliation:
        began = time.monotonic()
        reconciliation = reconcile_stored(self._database, run, now=now)
        took = timedelta(seconds=time.monotonic() - began)
        self._next_count_at[run.sync_job_run_id] = now + took * _COUNT_INTERVAL_FACTOR
        return reconciliation

    def _stop_run(self, run: StoredRun, now: datetime) -> None:
        if not self._truto.claim_turn(f"stop {run.sync_job_run_id}", now):
            return
        errors: list[str] = []
        stopped = self._truto.request(
            run.sync_job_run_id,
            lambda api: api.stop_run(run.sync_job_run_id),
            on_error=lambda error: errors.append(str(error)),
        )
        error = "" if stopped else next(iter(errors), self._truto.describe_skip())
        # The mark comes last: a process killed before it stops the run again, which changes nothing.
        self._notifications.add(build_stop_notification(run, error=error, now=now))
        if error:
            log.error("run.stop_failed", run=run.sync_job_run_id, reason=run.stop_reason, error=error)
        else:
            self._runs.mark_stop_sent(run.sync_job_run_id, now=now)
            log.warning("run.stopped", run=run.sync_job_run_id, reason=run.stop_reason)
