"""What is wrong beyond single runs: sinks that take nothing, webhooks that Truto has switched off."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from app.database.engine import Database
from app.store.failures import find_failing_sinks
from app.store.notifications import Notification, Notifications
from app.truto.client import TrutoClient
from app.truto.webhooks import Webhook
from workers.background.truto_poller import TrutoPoller

# A sink that is back sooner is nothing to be told of.
_FAILING_AFTER = timedelta(minutes=5)

log = structlog.get_logger()


def check_sinks(store: Database, notifications: Notifications, *, now: datetime) -> None:
    """Tell of sinks that have not taken a delivery for minutes; raises StoreUnavailable."""
    failing = find_failing_sinks(store)
    for trouble in failing:
        since = trouble.since.isoformat()
        payload = {"reason": trouble.reason, "since": since, "deliveries": trouble.deliveries}
        notification = Notification(
            "sink.failing", trouble.sink, since, now, {"sink": trouble.sink, **payload}
        )
        if now - trouble.since > _FAILING_AFTER and notifications.open(notification):
            log.error("sink.failing", sink=trouble.sink, **payload)
    names = {trouble.sink for trouble in failing}
    for notification in notifications.list_open("sink.failing"):
        if notification.subject not in names:
            notifications.close("sink.failing", notification.subject, now=now)
            log.info("sink.back", sink=notification.subject)


def check_webhooks(
    truto: TrutoPoller,
    notifications: Notifications,
    webhook_ids: Sequence[str],
    *,
    reactivates: bool,
    now: datetime,
) -> None:
    """Tell of webhooks that Truto has switched off; raises StoreUnavailable.

    is_reactivated: switch them on again.
    """
    for webhook_id in webhook_ids:
        webhook = truto.request(webhook_id, partial(_get_webhook, webhook_id))
        if webhook is None or webhook.is_active is None:
            continue
        if webhook.is_active:
            notifications.close("webhook.inactive", webhook_id, now=now)
            continue
        is_on = reactivates and bool(truto.request(webhook_id, partial(_activate_webhook, webhook_id)))
        payload = {"webhook_id": webhook_id, "is_reactivated": is_on}
        if notifications.open(Notification("webhook.inactive", webhook_id, now.isoformat(), now, payload)):
            log.error("webhook.inactive", webhook=webhook_id, is_reactivated=is_on)


def _get_webhook(webhook_id: str, api: TrutoClient) -> Webhook:
    return api.get_webhook(webhook_id)


def _activate_webhook(webhook_id: str, api: TrutoClient) -> Webhook:
    return api.activate_webhook(webhook_id)
