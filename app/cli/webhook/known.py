"""The webhooks that this receiver has to do with."""

from datetime import UTC, datetime, timedelta

from app.config.settings import Settings
from app.database.diagnostics import missing_file
from app.database.engine import open_store
from app.errors import StoreUnavailable
from app.store.runs import RunBook

_SEEN_WITHIN = timedelta(days=30)


def pinned_webhooks(settings: Settings) -> list[str]:
    """Return the webhooks that TRUTO_WEBHOOK_SECRET names."""
    return sorted({secret.webhook_id for secret in settings.webhook_secrets if secret.webhook_id})


def known_webhooks(settings: Settings) -> list[str]:
    """Return the webhooks that are pinned, or that runs of the last 30 days were sent to.

    Without the store, those that are pinned; where there are none, raises StoreUnavailable.
    """
    pinned = pinned_webhooks(settings)
    if missing_file(settings.database_url):
        return pinned
    store = open_store(settings.database_url)
    try:
        seen = RunBook(store).webhook_ids(since=datetime.now(UTC) - _SEEN_WITHIN)
    except StoreUnavailable:
        if not pinned:
            raise
        seen = []
    finally:
        store.dispose()
    return sorted({*pinned, *seen})
