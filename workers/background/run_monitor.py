"""Looks at one run: settles it when it has ended, tells when it does not, stops it when it must."""

import time
from datetime import datetime, timedelta
from functools import partial

import structlog

from app.config.routes import Routes
from app.database.engine import Database
from app.errors import QueueUnavailable
from app.redis.spool import Spool
from app.runs import notifications as notices
from app.runs.limits import find_exceeded_limit, has_limits
from app.runs.reconcile import reconcile_run, reconcile_stored
from app.runs.reconciliation import Reconciliation
from app.runs.refresh import RunRefresher
from app.store.notifications import Notifications
from app.store.runs import Runs, StoredRun
from workers.background.truto_poller import TrutoPoller

# A page may come after the end of its run, if it was tried again.
QUIET_PERIOD_S = 30.0
# After that, nobody waits for the end of a run any more.
_LOST_AFTER_S = 24 * 3600.0
# One that waits for a rate limit goes on by itself. One of which only batches come never tells its end.
_ACTIVE_STATUSES = ("created", "running")

log = structlog.get_logger()


class RunMonitor:
    """Raises StoreUnavailable. stalled_after_s: how long a run that has not ended may be silent."""

    def __init__(
        self, store: Database, routes: Routes, spool: Spool, truto: TrutoPoller, *, stalled_after_s: float
    ) -> None:
        self._store = store
        self._routes = routes
        self._spool = spool
        self._truto = truto
        self._stalled_after_s = stalled_after_s
        self._runs = Runs(store)
        self._notifications = Notifications(store)
        self._stalled_run_ids: set[str] = set()
        self._next_count_at: dict[str, datetime] = {}

    def begin_round(self, *, now: datetime) -> None:
        """Learn what the runs have in common."""
        self._stalled_run_ids = {
            notification.subject for notification in self._notifications.list_open("run.stalled")
        }
        self._next_count_at = {run_id: until for run_id, until in self._next_count_at.items() if until > now}

    def check_run(self, run: StoredRun, *, now: datetime) -> None:
        """Do what there is to do about a run."""
        silent_s = (now - (run.last_seen_at or run.first_seen_at)).total_seconds()
        if run.has_ended:
            if silent_s > QUIET_PERIOD_S and not self._has_pending_deliveries(run):
                self._reconcile_run(run, now)
            return
        if silent_s > self._stalled_after_s:
            self._report_stall(run, silent_s, now)
        else:
            self._close_stall(run, now)
        self._check_limits(run, silent_s, now)

    def _has_pending_deliveries(self, run: StoredRun) -> bool:
        """Whether deliveries wait that belong to the run, or in Redis, where they may."""
        try:
            return self._runs.has_pending(run.sync_job_run_id) or self._spool.count() > 0
        except QueueUnavailable:
            # What waits there is lost or comes back; until then, everything else is known.
            return False

    def _reconcile_run(self, run: StoredRun, now: datetime) -> None:
        on_error = partial(self._truto.log_error, run.sync_job_run_id)
        refreshed = self._truto.request(
            run.sync_job_run_id,
            lambda api: reconcile_run(
                self._store, run, RunRefresher(self._runs, api), now=now, on_error=on_error
            ),
        )
        run, reconciliation = refreshed or (run, reconcile_stored(self._store, run))
        end_notifications = notices.build_end_notifications(run, reconciliation, now=now)
        if self._runs.mark_reconciled(run, now=now, notifications=end_notifications):
            self._close_stall(run, now)
            log.info(
                "run.settled",
                run=run.sync_job_run_id,
                status=run.status,
                verdict=reconciliation.verdict,
                arrived=sum(line.arrived for line in reconciliation.resources),
                missing=sum(line.missing for line in reconciliation.resources),
                record_errors=reconciliation.record_errors,
            )

    def _close_stall(self, run: StoredRun, now: datetime) -> None:
        if run.sync_job_run_id in self._stalled_run_ids:
            self._notifications.close("run.stalled", run.sync_job_run_id, now=now)

    def _report_stall(self, run: StoredRun, silent_s: float, now: datetime) -> None:
        if run.status in _ACTIVE_STATUSES:
            notification = notices.build_stalled_notification(run, silent_s=silent_s, now=now)
            if self._notifications.open(notification):
                log.warning("run.stalled", run=run.sync_job_run_id, silent_s=round(silent_s))
        if self._truto.is_due(run.sync_job_run_id, now):
            self._truto.request(
                run.sync_job_run_id,
                lambda api: RunRefresher(self._runs, api).refresh(run.sync_job_run_id, now=now),
            )
        if silent_s > _LOST_AFTER_S and self._runs.mark_reconciled(run, now=now):
            log.warning("run.lost", run=run.sync_job_run_id, silent_s=round(silent_s))

    def _check_limits(self, run: StoredRun, silent_s: float, now: datetime) -> None:
        if (
            not run.stop_reason
            and has_limits(self._routes)
            and run.sync_job_run_id not in self._next_count_at
        ):
            reason = find_exceeded_limit(run, self._count_run(run, now), self._routes, silent_s=silent_s)
            if reason and self._runs.request_stop(run.sync_job_run_id, reason):
                log.warning("run.beyond_limit", run=run.sync_job_run_id, cause=reason)
            run = self._runs.get(run.sync_job_run_id) or run
        if run.stop_reason and not run.stop_sent_at and not run.has_ended:
            self._stop_run(run, now)

    def _count_run(self, run: StoredRun, now: datetime) -> Reconciliation:
        began = time.monotonic()
        reconciliation = reconcile_stored(self._store, run)
        # A run of very many pages takes long to add up: that gets a tenth of the time.
        took = timedelta(seconds=time.monotonic() - began)
        self._next_count_at[run.sync_job_run_id] = now + took * 10
        return reconciliation

    def _stop_run(self, run: StoredRun, now: datetime) -> None:
        if not self._truto.is_due(f"stop {run.sync_job_run_id}", now):
            return
        is_stop_sent = (
            self._truto.request(run.sync_job_run_id, lambda api: api.stop_run(run.sync_job_run_id))
            is not None
        )
        # Before it is noted: who dies in between asks again, which changes nothing.
        self._notifications.add(notices.build_limit_notification(run, is_stop_sent=is_stop_sent, now=now))
        if is_stop_sent:
            self._runs.mark_stop_sent(run.sync_job_run_id, now=now)
            log.warning("run.stopped", run=run.sync_job_run_id, cause=run.stop_reason)
        else:
            hint = "Truto did not take it" if self._truto.has_token else "TRUTO_API_TOKEN is not set"
            log.error("run.not_stopped", run=run.sync_job_run_id, cause=run.stop_reason, hint=hint)
