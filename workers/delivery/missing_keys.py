"""Notifications of resources with records that lack the key of their route."""

import math
import time

import structlog

from app.clock import utc_now
from app.config.routes import Route
from app.database.engine import Database
from app.store.models import Delivery
from app.store.notifications import Notification, Notifications

KIND = "key.missing"
_REFRESH_INTERVAL_S = 60.0

log = structlog.get_logger()


class MissingKeys:
    """Keeps one open notification for each resource whose records lack the key of their route.

    The notification names one integrated account, and is closed by a delivery of that account that has the
    key: the accounts of a resource may differ. Raises StoreUnavailable.
    """

    def __init__(self, database: Database) -> None:
        self._notifications = Notifications(database)
        self._open_accounts: dict[str, str] = {}
        self._refreshed_s = -math.inf

    def record_delivery(self, delivery: Delivery, resource: str, route: Route, *, has_key: bool) -> None:
        """Open or close the notification of a resource. has_key: whether any record has the key."""
        self._refresh()
        account = delivery.envelope.integrated_account_id
        if not has_key and resource not in self._open_accounts:
            self._open_accounts[resource] = account
            self._open(delivery, resource, route)
        elif has_key and self._open_accounts.get(resource) == account:
            del self._open_accounts[resource]
            if self._notifications.close(KIND, resource, now=utc_now()):
                log.info("key.present", resource=resource, integrated_account_id=account)

    def _open(self, delivery: Delivery, resource: str, route: Route) -> None:
        now = utc_now()
        payload = {
            "resource": resource,
            "integrated_account_id": delivery.envelope.integrated_account_id,
            "delivery": str(delivery.id),
            "key": route.key,
            "missing_key": route.on_missing_key,
        }
        # By the hour: deliveries with and without the key in turn lead to few notifications.
        notification = Notification(KIND, resource, f"{now:%Y-%m-%dT%H}", now, payload)
        if self._notifications.open(notification):
            log.warning(KIND, **payload)

    def _refresh(self) -> None:
        """Read the open notifications, which other workers open and close as well, once a minute."""
        now_s = time.monotonic()
        if now_s - self._refreshed_s >= _REFRESH_INTERVAL_S:
            self._open_accounts = {
                notification.subject: notification.payload["integrated_account_id"]
                for notification in self._notifications.list_open(KIND)
            }
            self._refreshed_s = now_s
