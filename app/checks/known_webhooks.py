"""Ids of the webhooks that send to this receiver."""

from datetime import timedelta

from app.clock import utc_now
from app.config.settings import Settings
from app.database.inspection import missing_file
from app.errors import StoreUnavailable
from app.store.runs import Runs
from app.store.store_database import open_store

_RECENT_PERIOD = timedelta(days=30)


def list_pinned_webhooks(settings: Settings) -> list[str]:
    """Return the ids of the webhooks that TRUTO_WEBHOOK_SECRET pins."""
    return sorted({secret.webhook_id for secret in settings.webhook_secrets if secret.webhook_id})


def list_known_webhooks(settings: Settings) -> list[str]:
    """Return the ids of pinned webhooks and of webhooks used by runs of the last 30 days.

    If the store cannot be read: only the pinned ones; raises StoreUnavailable if none is pinned.
    """
    pinned = list_pinned_webhooks(settings)
    if missing_file(settings.database_url):
        return pinned
    database = open_store(settings)
    try:
        recent = Runs(database).list_webhook_ids(since=utc_now() - _RECENT_PERIOD)
    except StoreUnavailable:
        if not pinned:
            raise
        recent = []
    finally:
        database.close()
    return sorted({*pinned, *recent})
