"""Monitoring of webhooks: a notification while a webhook is inactive."""

from datetime import datetime, timedelta
from functools import partial

import structlog

from app.config.settings import Settings
from app.database.engine import Database
from app.store.notifications import Notification, Notifications
from app.store.runs import Runs
from app.truto.client import TrutoClient
from app.truto.webhooks import Webhook
from workers.background.truto_poller import TrutoPoller

_KIND = "webhook.inactive"
_USED_WITHIN = timedelta(days=30)

log = structlog.get_logger()


class WebhookMonitor:
    """Notifies about deactivated webhooks, and reactivates them if the settings say so.

    The webhooks: those with a secret of their own in the settings, and those of recent runs.
    """

    def __init__(self, database: Database, settings: Settings, truto: TrutoPoller) -> None:
        self._settings = settings
        self._truto = truto
        self._runs = Runs(database)
        self._notifications = Notifications(database)

    def check_webhooks(self, *, now: datetime) -> None:
        """Check every webhook, at most every five minutes; raises StoreUnavailable."""
        if not self._truto.has_token or not self._truto.claim_turn("webhooks", now):
            return
        pinned = {secret.webhook_id for secret in self._settings.webhook_secrets if secret.webhook_id}
        recent = self._runs.list_webhook_ids(since=now - _USED_WITHIN)
        for webhook_id in sorted({*pinned, *recent}):
            self._check_webhook(webhook_id, now)

    def _check_webhook(self, webhook_id: str, now: datetime) -> None:
        webhook = self._truto.request(webhook_id, partial(_get_webhook, webhook_id))
        if webhook is None or webhook.is_active is None:
            return
        if webhook.is_active:
            self._notifications.close(_KIND, webhook_id, now=now)
            return
        is_reactivated = self._settings.reactivate_webhook and bool(
            self._truto.request(webhook_id, partial(_activate_webhook, webhook_id))
        )
        payload = {"webhook_id": webhook_id, "is_reactivated": is_reactivated}
        if self._notifications.open(Notification(_KIND, webhook_id, now.isoformat(), now, payload)):
            log.error("webhook.inactive", webhook=webhook_id, is_reactivated=is_reactivated)


def _get_webhook(webhook_id: str, api: TrutoClient) -> Webhook:
    return api.get_webhook(webhook_id)


def _activate_webhook(webhook_id: str, api: TrutoClient) -> Webhook:
    return api.activate_webhook(webhook_id)
