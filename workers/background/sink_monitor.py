"""Monitoring of sinks: notifications while they fail, and tables that do not fit."""

from datetime import datetime, timedelta
from functools import partial

import structlog

from app.config.routes import Routes
from app.database.engine import Database
from app.sinks.probe import find_set_up_problems
from app.sinks.sql.probe import SetUpProblem
from app.store.failures import find_failing_sinks
from app.store.notifications import Notification, Notifications
from app.store.reasons import SET_UP_REASONS
from workers.background.loop import PeriodicTask

_KIND = "sink.failing"
_SET_UP_INTERVAL_S = 600.0
# A shorter outage is not worth a notification; a set-up does not correct itself.
_FAILING_AFTER = timedelta(minutes=5)

log = structlog.get_logger()


class SinkMonitor:
    """Keeps one open notification for every sink that has failed for minutes. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._notifications = Notifications(database)

    def check_sinks(self, *, now: datetime) -> None:
        """Open notifications of failing sinks; close those of sinks that work again."""
        failing = find_failing_sinks(self._database)
        for failure in failing:
            since = failure.since.isoformat()
            payload = {
                "reason": failure.reason,
                "message": failure.message,
                "since": since,
                "deliveries": failure.deliveries,
            }
            notification = Notification(_KIND, failure.sink, since, now, {"sink": failure.sink, **payload})
            is_due = failure.reason in SET_UP_REASONS or now - failure.since > _FAILING_AFTER
            if is_due and self._notifications.open(notification):
                log.error("sink.failing", sink=failure.sink, **payload)
        failing_names = {failure.sink for failure in failing}
        for notification in self._notifications.list_open(_KIND):
            if notification.subject not in failing_names:
                self._notifications.close(_KIND, notification.subject, now=now)
                log.info("sink.recovered", sink=notification.subject)


class SetUpMonitor(PeriodicTask):
    """Logs the tables of the sinks that do not fit their routes: at the start, and when they change."""

    def __init__(self, routes: Routes) -> None:
        super().__init__("set_up", interval_s=_SET_UP_INTERVAL_S)
        self._routes = routes
        self._logged: dict[str, list[SetUpProblem]] = {}

    def run_once(self) -> None:
        """Check every sink once."""
        for name in self._routes.sinks:
            self.run_step(f"sink {name}", partial(self._check_sink, name))

    def _check_sink(self, name: str) -> None:
        problems = find_set_up_problems(name, self._routes)
        for problem in problems:
            if problem not in self._logged.get(name, ()):
                log.warning(
                    "sink.misconfigured",
                    sink=name,
                    problem=problem.problem,
                    correction=problem.correction,
                    is_blocking=problem.is_blocking,
                )
        self._logged[name] = problems
