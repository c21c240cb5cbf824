"""Monitoring of sinks: a notification while a sink fails."""

from datetime import datetime, timedelta

import structlog

from app.database.engine import Database
from app.store.failures import find_failing_sinks
from app.store.notifications import Notification, Notifications
from app.store.reasons import SET_UP_REASONS

_KIND = "sink.failing"
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
