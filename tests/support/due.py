"""Leases of due deliveries, as the feeder takes them."""

from collections.abc import Sequence
from datetime import datetime

from app.database.engine import Database
from app.store.due_deliveries import DueDeliveries
from app.store.models import Delivery, DeliveryPriority


def lease_due(
    store: Database,
    *,
    now: datetime,
    limit: int,
    requeue_after_s: float = 60,
    priority: DeliveryPriority = DeliveryPriority.LIVE,
) -> Sequence[Delivery]:
    """Lease due deliveries by a feeder of their own, and return them in turn."""
    lease = DueDeliveries(store).lease(
        now=now, limit=limit, requeue_after_s=requeue_after_s, priority=priority
    )
    return list(lease.deliveries)
