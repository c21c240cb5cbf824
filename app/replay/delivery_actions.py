"""The replay and the discard of one delivery."""

from app.config.delivery_config import DeliveryConfig
from app.database.engine import Database
from app.replay.operations import start_discard, start_replay
from app.replay.request import ReplayRequest
from app.store.delivery_detail import DeliveryRow
from app.store.delivery_filter import DeliveryFilter
from app.store.failures import FAILED_STATES
from app.store.models import DeliveryState
from app.store.operations import Operation, Requester


def may_replay(delivery: DeliveryRow) -> bool:
    """Whether a delivery can be replayed: no worker will process it anyway, and it has a body."""
    return delivery.state != DeliveryState.PENDING and delivery.pruned_at is None


def may_discard(delivery: DeliveryRow) -> bool:
    """Whether a delivery can be discarded."""
    return delivery.state in FAILED_STATES


def replay_delivery(
    database: Database, delivery: DeliveryRow, *, requester: Requester, config: DeliveryConfig
) -> Operation:
    """Start the replay of a delivery, or return the unfinished one; raises as `start_replay` does.

    A delivery that has changed since it was read is not replayed again.
    """
    request = ReplayRequest(_select(delivery))
    return start_replay(database, request, requester=requester, config=config, total=1)


def discard_delivery(
    database: Database, delivery: DeliveryRow, *, because: str, requester: Requester
) -> Operation:
    """Start the discard of a failed delivery, or return the unfinished one; raises as `start_discard` does.

    because: the operator's reason. A delivery that has changed since it was read is left unchanged.
    """
    return start_discard(database, _select(delivery), because=because, requester=requester, total=1)


def _select(delivery: DeliveryRow) -> DeliveryFilter:
    # A state that is named: otherwise a replay leaves out refused and discarded deliveries.
    return DeliveryFilter(ids=[delivery.id], states=[delivery.state], settled_until=delivery.settled_at)
