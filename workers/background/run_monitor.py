"""Looks at one run: settles it when it has ended, tells when it does not, stops it when it must."""

import time
from datetime import datetime, timedelta
from functools import partial

import structlog

from app.config.routes import Routes
from app.database.engine import Store
from app.errors import QueueUnavailable
from app.redis.spool import Spool
from app.runs import notifications as notices
from app.runs.limits import exceeded, has_limits
from app.runs.reconcile import account_of, reconcile
from app.runs.reconciliation import Account
from app.runs.refresh import Inquiry
from app.store.notifications import Notices
from app.store.runs import KnownRun, RunBook
from workers.background.truto_poller import Patience

# A page may come after the end of its run, if it was tried again.
QUIET_S = 30.0
# After that, nobody waits for the end of a run any more.
_LOST_AFTER_S = 24 * 3600.0
# One that waits for a rate limit goes on by itself. One of which only batches come never tells its end.
_MUST_GO_ON = ("created", "running")

log = structlog.get_logger()


class RunWatch:
    """Raises StoreUnavailable. stalled_after_s: how long a run that has not ended may be silent."""

    def __init__(
        self, store: Store, routes: Routes, spool: Spool, truto: Patience, *, stalled_after_s: float
    ) -> None:
        self._store = store
        self._routes = routes
        self._spool = spool
        self._truto = truto
        self._stalled_after_s = stalled_after_s
        self._book = RunBook(store)
        self._notices = Notices(store)
        self._stalled: set[str] = set()
        self._counted: dict[str, datetime] = {}

    def begin_round(self, *, now: datetime) -> None:
        """Learn what the runs have in common."""
        self._stalled = {notice.subject for notice in self._notices.lasting("run.stalled")}
        self._counted = {run_id: until for run_id, until in self._counted.items() if until > now}

    def look_at(self, run: KnownRun, *, now: datetime) -> None:
        """Do what there is to do about a run."""
        silent_s = (now - (run.last_seen_at or run.first_seen_at)).total_seconds()
        if run.has_ended:
            if silent_s > QUIET_S and not self._is_awaited(run):
                self._settle(run, now)
            return
        if silent_s > self._stalled_after_s:
            self._stall(run, silent_s, now)
        else:
            self._go_on(run, now)
        self._limit(run, silent_s, now)

    def _is_awaited(self, run: KnownRun) -> bool:
        """Whether deliveries wait that belong to the run, or in Redis, where they may."""
        try:
            return self._book.has_pending(run.sync_job_run_id) or self._spool.count() > 0
        except QueueUnavailable:
            # What waits there is lost or comes back; until then, everything else is known.
            return False

    def _settle(self, run: KnownRun, now: datetime) -> None:
        tell = partial(self._truto.note, run.sync_job_run_id)
        known = self._truto.ask(
            run.sync_job_run_id,
            lambda api: reconcile(self._store, run, Inquiry(self._book, api), now=now, tell=tell),
        )
        run, account = known or (run, account_of(self._store, run))
        told = notices.notices_of_end(run, account, now=now)
        if self._book.settle(run, now=now, notices=told):
            self._go_on(run, now)
            log.info(
                "run.settled",
                run=run.sync_job_run_id,
                status=run.status,
                verdict=account.verdict,
                arrived=sum(line.arrived for line in account.lines),
                missing=sum(line.missing for line in account.lines),
                record_errors=account.record_errors,
            )

    def _go_on(self, run: KnownRun, now: datetime) -> None:
        if run.sync_job_run_id in self._stalled:
            self._notices.end("run.stalled", run.sync_job_run_id, now=now)

    def _stall(self, run: KnownRun, silent_s: float, now: datetime) -> None:
        if run.status in _MUST_GO_ON:
            notice = notices.stalled(run, silent_s=silent_s, now=now)
            if self._notices.begin(notice):
                log.warning("run.stalled", run=run.sync_job_run_id, silent_s=round(silent_s))
        if self._truto.is_time(run.sync_job_run_id, now):
            self._truto.ask(
                run.sync_job_run_id, lambda api: Inquiry(self._book, api).ask(run.sync_job_run_id, now=now)
            )
        if silent_s > _LOST_AFTER_S and self._book.settle(run, now=now):
            log.warning("run.lost", run=run.sync_job_run_id, silent_s=round(silent_s))

    def _limit(self, run: KnownRun, silent_s: float, now: datetime) -> None:
        if not run.stop_cause and has_limits(self._routes) and run.sync_job_run_id not in self._counted:
            cause = exceeded(run, self._count(run, now), self._routes, silent_s=silent_s)
            if cause and self._book.want_stop(run.sync_job_run_id, cause):
                log.warning("run.beyond_limit", run=run.sync_job_run_id, cause=cause)
            run = self._book.get(run.sync_job_run_id) or run
        if run.stop_cause and not run.stop_asked_at and not run.has_ended:
            self._stop(run, now)

    def _count(self, run: KnownRun, now: datetime) -> Account:
        began = time.monotonic()
        account = account_of(self._store, run)
        # A run of very many pages takes long to add up: that gets a tenth of the time.
        took = timedelta(seconds=time.monotonic() - began)
        self._counted[run.sync_job_run_id] = now + took * 10
        return account

    def _stop(self, run: KnownRun, now: datetime) -> None:
        if not self._truto.is_time(f"stop {run.sync_job_run_id}", now):
            return
        is_asked = (
            self._truto.ask(run.sync_job_run_id, lambda api: api.stop_run(run.sync_job_run_id)) is not None
        )
        # Before it is noted: who dies in between asks again, which changes nothing.
        self._notices.note(notices.stopped_by_limit(run, is_asked=is_asked, now=now))
        if is_asked:
            self._book.note_stop_asked(run.sync_job_run_id, now=now)
            log.warning("run.stopped", run=run.sync_job_run_id, cause=run.stop_cause)
        else:
            hint = "Truto did not take it" if self._truto.is_possible else "TRUTO_API_TOKEN is not set"
            log.error("run.not_stopped", run=run.sync_job_run_id, cause=run.stop_cause, hint=hint)
