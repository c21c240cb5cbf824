"""What is wrong beyond single runs: sinks that take nothing, webhooks that Truto has switched off."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from app.database.engine import Store
from app.store.notifications import Notice, Notices
from app.store.troubles import failing_sinks
from app.truto.api import TrutoApi
from app.truto.webhooks import Webhook
from workers.background.truto_poller import Patience

# A sink that is back sooner is nothing to be told of.
_FAILING_AFTER = timedelta(minutes=5)

log = structlog.get_logger()


def watch_sinks(store: Store, notices: Notices, *, now: datetime) -> None:
    """Tell of sinks that have not taken a delivery for minutes; raises StoreUnavailable."""
    failing = failing_sinks(store)
    for trouble in failing:
        since = trouble.since.isoformat()
        told = {"reason": trouble.reason, "since": since, "deliveries": trouble.deliveries}
        notice = Notice("sink.failing", trouble.sink, since, now, {"sink": trouble.sink, **told})
        if now - trouble.since > _FAILING_AFTER and notices.begin(notice):
            log.error("sink.failing", sink=trouble.sink, **told)
    names = {trouble.sink for trouble in failing}
    for notice in notices.lasting("sink.failing"):
        if notice.subject not in names:
            notices.end("sink.failing", notice.subject, now=now)
            log.info("sink.back", sink=notice.subject)


def watch_webhooks(
    truto: Patience, notices: Notices, webhook_ids: Sequence[str], *, is_reactivated: bool, now: datetime
) -> None:
    """Tell of webhooks that Truto has switched off; raises StoreUnavailable.

    is_reactivated: switch them on again.
    """
    for webhook_id in webhook_ids:
        webhook = truto.ask(webhook_id, partial(_look_up, webhook_id))
        if webhook is None or webhook.is_active is None:
            continue
        if webhook.is_active:
            notices.end("webhook.inactive", webhook_id, now=now)
            continue
        is_on = is_reactivated and bool(truto.ask(webhook_id, partial(_activate, webhook_id)))
        told = {"webhook_id": webhook_id, "is_reactivated": is_on}
        if notices.begin(Notice("webhook.inactive", webhook_id, now.isoformat(), now, told)):
            log.error("webhook.inactive", webhook=webhook_id, is_reactivated=is_on)


def _look_up(webhook_id: str, api: TrutoApi) -> Webhook:
    return api.get_webhook(webhook_id)


def _activate(webhook_id: str, api: TrutoApi) -> Webhook:
    return api.activate_webhook(webhook_id)
