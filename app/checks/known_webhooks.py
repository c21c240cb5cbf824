"""The webhooks that this receiver has to do with."""

from datetime import UTC, datetime, timedelta

from app.config.settings import Settings
from app.database.diagnostics import missing_file
from app.database.engine import open_database
from app.errors import StoreUnavailable
from app.store.runs import Runs

_RECENT_PERIOD = timedelta(days=30)


def list_pinned_webhooks(settings: Settings) -> list[str]:
    """Return the webhooks that TRUTO_WEBHOOK_SECRET names."""
    return sorted({secret.webhook_id for secret in settings.webhook_secrets if secret.webhook_id})


def list_known_webhooks(settings: Settings) -> list[str]:
    """Return the webhooks that are pinned, or that runs of the last 30 days were sent to.

    Without the store, those that are pinned; where there are none, raises StoreUnavailable.
    """
    pinned = list_pinned_webhooks(settings)
    if missing_file(settings.database_url):
        return pinned
    store = open_database(settings.database_url)
    try:
        recent = Runs(store).list_webhook_ids(since=datetime.now(UTC) - _RECENT_PERIOD)
    except StoreUnavailable:
        if not pinned:
            raise
        recent = []
    finally:
        store.close()
    return sorted({*pinned, *recent})
