"""Bodies of one job's deliveries, read from the inbox in batches."""

from collections.abc import Sequence
from uuid import UUID

from app.store.inbox import Inbox
from app.store.models import Delivery
from app.store.stored_body import decode_body

# Small bodies share a round trip; a larger body is read alone.
_MAX_BATCH_BYTES = 2 * 1024 * 1024


class BodyPrefetcher:
    """The bodies of deliveries, each read once and in their order; held as stored until then."""

    def __init__(self, inbox: Inbox, deliveries: Sequence[Delivery]) -> None:
        self._inbox = inbox
        self._unread = list(deliveries)
        self._stored: dict[UUID, bytes] = {}

    def read_body(self, delivery: Delivery) -> bytes:
        """Return a delivery's body. Raises StoreUnavailable, BodyPruned, or ValueError if damaged."""
        if delivery.id not in self._stored:
            self._stored = self._inbox.read_stored(self._choose_batch(delivery))
        return decode_body(self._inbox.database.keyring, delivery.id, self._stored.pop(delivery.id))

    def _choose_batch(self, delivery: Delivery) -> list[UUID]:
        # Deliveries before this one were skipped and are not read.
        self._unread = self._unread[self._unread.index(delivery) :]
        batch_bytes, ids = 0, list[UUID]()
        for candidate in self._unread:
            batch_bytes += candidate.body_bytes
            if ids and batch_bytes > _MAX_BATCH_BYTES:
                break
            ids.append(candidate.id)
        return ids
