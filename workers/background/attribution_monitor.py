"""Monitoring of deliveries without an account: requeue and notification."""

from datetime import datetime, timedelta

import structlog

from app.database.engine import Database
from app.store.notifications import Notification, Notifications
from app.store.unattributed import find_unattributed, requeue_attributable

_KIND = "account.unknown"
# The event that names the account of a run may come later than its first pages.
_UNKNOWN_AFTER = timedelta(minutes=1)

log = structlog.get_logger()


class AttributionMonitor:
    """Requeues deliveries whose account has become known, and notifies about the others by webhook.

    Raises StoreUnavailable.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._notifications = Notifications(database)

    def check_deliveries(self, *, now: datetime) -> None:
        """Requeue what can be attributed; open and close the notifications of webhooks."""
        if number := requeue_attributable(self._database, now=now):
            log.info("attribution.requeued", deliveries=number)
        unattributed = {group.webhook_id: group for group in find_unattributed(self._database)}
        for webhook_id, group in unattributed.items():
            since = group.since.isoformat()
            payload = {"webhook_id": webhook_id, "since": since, "deliveries": group.deliveries}
            notification = Notification(_KIND, webhook_id, since, now, payload)
            if now - group.since > _UNKNOWN_AFTER and self._notifications.open(notification):
                hint = "name the account in the routes file; rapidbridge dead list shows the lines"
                log.error("account.unknown", **payload, hint=hint)
        for notification in self._notifications.list_open(_KIND):
            if notification.subject not in unattributed:
                self._notifications.close(_KIND, notification.subject, now=now)
                log.info("account.known", webhook=notification.subject)
