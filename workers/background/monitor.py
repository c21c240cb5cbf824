"""The monitor: watches runs, sinks, webhooks, deliveries and this machine, every five seconds."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial

from app.clock import utc_now
from app.config.load import Config
from app.config.settings import Settings
from app.database.engine import Database
from app.redis.spool import Spool
from app.runs.run_summary import is_outdated
from app.store.runs import Runs, StoredRun
from app.truto.client import TrutoClient
from workers.background.attribution_monitor import AttributionMonitor
from workers.background.condition_monitor import ConditionMonitor
from workers.background.loop import PeriodicTask
from workers.background.run_monitor import RunMonitor
from workers.background.run_summarizer import RunSummarizer
from workers.background.sink_monitor import SinkMonitor
from workers.background.truto_poller import TrutoPoller
from workers.background.webhook_monitor import WebhookMonitor

_INTERVAL_S = 5.0


class Monitor(PeriodicTask):
    """Checks of runs, sinks, webhooks and other conditions. Any number may run, on any number of machines.

    tasks: the other background tasks of this process, to notify of their failures.
    """

    def __init__(
        self,
        database: Database,
        config: Config,
        spool: Spool,
        *,
        tasks: Sequence[PeriodicTask] = (),
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__("monitor", interval_s=_INTERVAL_S)
        settings = config.settings
        self._clock = clock
        self._runs = Runs(database)
        self._exit_stack = ExitStack()
        self._truto = TrutoPoller(self._open_api(settings))
        self._run_monitor = RunMonitor(
            database,
            config.routes,
            spool,
            self._truto,
            stalled_after_s=settings.stalled_after_minutes * 60,
        )
        self._summarizer = RunSummarizer(
            database, stalled_after=timedelta(minutes=settings.stalled_after_minutes)
        )
        self._outdated_runs: list[StoredRun] = []
        self._sink_monitor = SinkMonitor(database)
        self._attribution_monitor = AttributionMonitor(database)
        self._condition_monitor = ConditionMonitor(
            database, config, spool, [*tasks, self], started_at=clock()
        )
        self._webhook_monitor = WebhookMonitor(database, settings, self._truto)

    def run_once(self) -> None:
        """Run every check once."""
        now = self._clock()
        self._truto.begin_round(now)
        # First: runs that cannot be checked, or are many, must not delay the stop of another.
        self.run_step("stops", lambda: self._run_monitor.send_stops(now=now))
        self.run_step("runs", self._check_runs)
        self.run_step("summaries", self._summarize_runs)
        self.run_step("sinks", lambda: self._sink_monitor.check_sinks(now=now))
        self.run_step("attribution", lambda: self._attribution_monitor.check_deliveries(now=now))
        self.run_step("webhooks", lambda: self._webhook_monitor.check_webhooks(now=now))
        conditions = self._condition_monitor
        self.run_step("requests", lambda: conditions.check_requests(now=now))
        self.run_step("failures", lambda: conditions.check_failures(now=now))
        self.run_step("backlog", lambda: conditions.check_backlog(now=now))
        self.run_step("spool", lambda: conditions.check_spool(now=now))
        self.run_step("workers", lambda: conditions.check_workers(now=now))
        self.run_step("disks", lambda: conditions.check_disks(now=now))
        self.run_step("tasks", lambda: conditions.check_tasks(now=now))
        self.run_step("conditions", conditions.log_open)

    def close(self) -> None:
        """Close the connection to Truto."""
        self._exit_stack.close()

    def _open_api(self, settings: Settings) -> TrutoClient | None:
        if not settings.truto_api_token:
            return None
        client = TrutoClient(settings.truto_api_url, settings.truto_api_token)
        return self._exit_stack.enter_context(client)

    def _check_runs(self) -> None:
        self._run_monitor.begin_round(now=self._clock())
        self._outdated_runs = []
        runs = self._runs.list_unreconciled()
        self.run_each("run", ((run.sync_job_run_id, partial(self._check_run, run)) for run in runs))

    def _check_run(self, run: StoredRun) -> None:
        now = self._clock()
        if is_outdated(run, now=now):
            self._outdated_runs.append(run)
        self._run_monitor.check_run(run, now=now)

    def _summarize_runs(self) -> None:
        now = self._clock()
        self._summarizer.summarize_changed(now=now)
        self._summarizer.summarize_open(self._outdated_runs, now=now)
        self._summarizer.summarize_pending(now=now)
