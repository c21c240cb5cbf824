"""Looks after what happens beyond single deliveries: runs, sinks that fail, webhooks that are off."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

from app.config.load import Config
from app.database.engine import Database
from app.errors import StoreUnavailable
from app.redis.spool import Spool
from app.store.notifications import Notifications
from app.store.runs import Runs
from app.truto.client import TrutoClient
from workers.background.loop import PeriodicTask
from workers.background.run_monitor import RunMonitor
from workers.background.sink_monitor import check_sinks, check_webhooks
from workers.background.truto_poller import TrutoPoller

_INTERVAL_S = 5.0
_WEBHOOKS_SEEN_WITHIN = timedelta(days=30)


def _now() -> datetime:
    return datetime.now(UTC)


class Monitor:
    """One round every five seconds. Any number may run, on any number of machines."""

    def __init__(
        self, store: Database, config: Config, spool: Spool, *, clock: Callable[[], datetime] = _now
    ) -> None:
        settings = config.settings
        self._store = store
        self._settings = settings
        self._clock = clock
        self._runs = Runs(store)
        self._notifications = Notifications(store)
        self._task = PeriodicTask("oversight.failed", then=f"tried again every {_INTERVAL_S:g} s")
        self._exit_stack = ExitStack()
        self._truto = TrutoPoller(self._open_api())
        stalled_after_s = settings.stalled_after_minutes * 60
        self._run_monitor = RunMonitor(
            store, config.routes, spool, self._truto, stalled_after_s=stalled_after_s
        )

    def start(self) -> None:
        """Look every five seconds in a thread of its own, which ends with the process."""
        threading.Thread(target=self._run, name="overseer", daemon=True).start()

    def run_once(self) -> None:
        """Do everything there is to do now. A fault is logged once, and passes."""
        now = self._clock()
        self._truto.begin_round(now)
        self._task.run_step("runs", self._check_runs)
        self._task.run_step("sinks", lambda: check_sinks(self._store, self._notifications, now=now))
        self._task.run_step("webhooks", lambda: self._check_webhooks(now))

    def close(self) -> None:
        """Close the connection to Truto."""
        self._exit_stack.close()

    def _open_api(self) -> TrutoClient | None:
        if not self._settings.truto_api_token:
            return None
        client = TrutoClient(self._settings.truto_api_url, self._settings.truto_api_token)
        return self._exit_stack.enter_context(client)

    def _run(self) -> None:
        while True:
            self.run_once()
            time.sleep(_INTERVAL_S)

    def _check_runs(self) -> None:
        self._run_monitor.begin_round(now=self._clock())
        for run in self._runs.list_unreconciled():
            # One odd run is not to keep the others from being looked at; a store that is away is.
            check = partial(self._run_monitor.check_run, run, now=self._clock())
            self._task.run_step(f"run {run.sync_job_run_id}", check, raises=(StoreUnavailable,))

    def _check_webhooks(self, now: datetime) -> None:
        if not self._truto.has_token or not self._truto.is_due("webhooks", now):
            return
        pinned = {secret.webhook_id for secret in self._settings.webhook_secrets if secret.webhook_id}
        seen = self._runs.list_webhook_ids(since=now - _WEBHOOKS_SEEN_WITHIN)
        check_webhooks(
            self._truto,
            self._notifications,
            sorted({*pinned, *seen}),
            reactivates=self._settings.reactivate_webhook,
            now=now,
        )
