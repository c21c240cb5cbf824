"""Looks after what happens beyond single deliveries: runs, sinks that fail, webhooks that are off."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

from app.config.load import Setup
from app.database.engine import Store
from app.errors import StoreUnavailable
from app.redis.spool import Spool
from app.store.notifications import Notices
from app.store.runs import RunBook
from app.truto.api import TrutoApi
from app.truto.client import Client
from workers.background.loop import Faults
from workers.background.run_monitor import RunWatch
from workers.background.sink_monitor import watch_sinks, watch_webhooks
from workers.background.truto_poller import Patience

_EVERY_S = 5.0
_WEBHOOKS_SEEN_WITHIN = timedelta(days=30)


def _now() -> datetime:
    return datetime.now(UTC)


class Overseer:
    """One round every five seconds. Any number may run, on any number of machines."""

    def __init__(
        self, store: Store, setup: Setup, spool: Spool, *, clock: Callable[[], datetime] = _now
    ) -> None:
        settings = setup.settings
        self._store = store
        self._settings = settings
        self._clock = clock
        self._book = RunBook(store)
        self._notices = Notices(store)
        self._faults = Faults("oversight.failed", then=f"tried again every {_EVERY_S:g} s")
        self._closing = ExitStack()
        self._truto = Patience(self._open_api())
        stalled_after_s = settings.stalled_after_minutes * 60
        self._watch = RunWatch(store, setup.routes, spool, self._truto, stalled_after_s=stalled_after_s)

    def start(self) -> None:
        """Look every five seconds in a thread of its own, which ends with the process."""
        threading.Thread(target=self._run, name="overseer", daemon=True).start()

    def look(self) -> None:
        """Do everything there is to do now. A fault is logged once, and passes."""
        now = self._clock()
        self._truto.begin_round(now)
        self._faults.attempt("runs", self._look_at_runs)
        self._faults.attempt("sinks", lambda: watch_sinks(self._store, self._notices, now=now))
        self._faults.attempt("webhooks", lambda: self._look_at_webhooks(now))

    def close(self) -> None:
        """Close the connection to Truto."""
        self._closing.close()

    def _open_api(self) -> TrutoApi | None:
        if not self._settings.truto_api_token:
            return None
        client = Client(self._settings.truto_api_url, self._settings.truto_api_token)
        return TrutoApi(self._closing.enter_context(client))

    def _run(self) -> None:
        while True:
            self.look()
            time.sleep(_EVERY_S)

    def _look_at_runs(self) -> None:
        self._watch.begin_round(now=self._clock())
        for run in self._book.unsettled():
            # One odd run is not to keep the others from being looked at; a store that is away is.
            look = partial(self._watch.look_at, run, now=self._clock())
            self._faults.attempt(f"run {run.sync_job_run_id}", look, raises=(StoreUnavailable,))

    def _look_at_webhooks(self, now: datetime) -> None:
        if not self._truto.is_possible or not self._truto.is_time("webhooks", now):
            return
        pinned = {secret.webhook_id for secret in self._settings.webhook_secrets if secret.webhook_id}
        seen = self._book.webhook_ids(since=now - _WEBHOOKS_SEEN_WITHIN)
        watch_webhooks(
            self._truto,
            self._notices,
            sorted({*pinned, *seen}),
            is_reactivated=self._settings.reactivate_webhook,
            now=now,
        )
