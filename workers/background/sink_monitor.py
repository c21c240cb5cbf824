"""Monitoring of sinks: notifications while they fail, and tables that do not fit."""

from datetime import datetime, timedelta
from functools import partial

import structlog

from app.config.routes import Routes
from app.database.engine import Database
from app.sinks.probe import find_set_up_problems, keep_tables
from app.sinks.sql.probe import SetUpProblem
from app.store.bounded_count import BoundedCount
from app.store.notifications import Notification, Notifications
from app.store.reasons import SET_UP_REASONS
from app.store.sink_status import SinkStatus, list_failing_sinks
from workers.background.loop import PeriodicTask

_KIND = "sink.failing"
_RECOVERED = "sink.recovered"
_SET_UP_INTERVAL_S = 600.0
# A restart of a database is not worth a notification; a set-up does not correct itself.
_FAILING_AFTER = timedelta(minutes=1)

log = structlog.get_logger()


class SinkMonitor:
    """Keeps one open notification for every sink that fails; adds one when it works again.

    Raises StoreUnavailable.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._notifications = Notifications(database)
        # The deliveries that waited, by sink, as of the last check: later, they are written.
        self._waiting: dict[str, BoundedCount] = {}

    def check_sinks(self, *, now: datetime) -> None:
        """Open notifications of failing sinks; close those of sinks that work again."""
        failing = {status.sink: status for status in list_failing_sinks(self._database)}
        for status in failing.values():
            self._open(status, now)
        for notification in self._notifications.list_open(_KIND):
            if notification.subject not in failing:
                self._close(notification, now)
        self._waiting = {sink: status.waiting for sink, status in failing.items()}

    def _open(self, status: SinkStatus, now: datetime) -> None:
        since = status.failing_since or now
        payload = {
            "reason": status.reason,
            "message": status.message,
            "since": since.isoformat(),
            "deliveries": status.waiting.number,
            "is_exact": status.waiting.is_exact,
        }
        notification = Notification(
            _KIND, status.sink, since.isoformat(), now, {"sink": status.sink, **payload}
        )
        is_due = status.reason in SET_UP_REASONS or now - since > _FAILING_AFTER
        if is_due and self._notifications.open(notification):
            log.error(_KIND, sink=status.sink, **payload)

    def _close(self, failing: Notification, now: datetime) -> None:
        sink, since = failing.subject, failing.payload["since"]
        notified = BoundedCount(failing.payload["deliveries"], is_exact=failing.payload.get("is_exact", True))
        waited = max(self._waiting.get(sink, notified), notified, key=lambda count: count.as_number)
        payload = {
            "since": since,
            "failing_s": round((now - datetime.fromisoformat(since)).total_seconds()),
            "deliveries": waited.number,
            "is_exact": waited.is_exact,
        }
        # Before the end: a process that is killed in between adds it again, which changes nothing.
        self._notifications.add(Notification(_RECOVERED, sink, since, now, {"sink": sink, **payload}))
        if self._notifications.close(_KIND, sink, now=now):
            log.info(_RECOVERED, sink=sink, **payload)


class SetUpMonitor(PeriodicTask):
    """Logs the tables of the sinks that do not fit their routes: at the start, and when they change.

    Then creates missing indexes and views of the tables.
    """

    def __init__(self, routes: Routes) -> None:
        super().__init__("set_up", interval_s=_SET_UP_INTERVAL_S)
        self._routes = routes
        self._logged: dict[str, list[SetUpProblem]] = {}

    def run_once(self) -> None:
        """Check every sink once, then keep its tables."""
        for name in self._routes.sinks:
            self.run_step(f"sink {name}", partial(self._check_sink, name))
        for name in self._routes.sinks:
            self.run_step(f"tables of sink {name}", partial(keep_tables, name, self._routes))

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
