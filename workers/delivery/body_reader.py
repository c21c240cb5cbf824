"""The bodies of one job's deliveries, read from the inbox several at a time."""

from collections.abc import Sequence
from uuid import UUID

from app.store.inbox import Inbox, decompress_body
from app.store.models import Delivery

# What is read at once; a larger body is read alone. Small ones then cost a fraction of a round trip each.
_MAX_BATCH_BYTES = 2 * 1024 * 1024


class BodyPrefetcher:
    """Hands out each body once, in the order of the deliveries. Compressed until then."""

    def __init__(self, inbox: Inbox, deliveries: Sequence[Delivery]) -> None:
        self._inbox = inbox
        self._unread = list(deliveries)
        self._stored: dict[UUID, bytes] = {}

    def read_body(self, delivery: Delivery) -> bytes:
        """Return a delivery's body. Raises StoreUnavailable, BodyPruned, or ValueError if damaged."""
        if delivery.id not in self._stored:
            self._stored = self._inbox.read_stored(self._choose_next_ids(delivery))
        return decompress_body(delivery.id, self._stored.pop(delivery.id))

    def _choose_next_ids(self, delivery: Delivery) -> list[UUID]:
        # Those before it were passed over.
        self._unread = self._unread[self._unread.index(delivery) :]
        size, ids = 0, list[UUID]()
        for candidate in self._unread:
            size += candidate.body_bytes
            if ids and size > _MAX_BATCH_BYTES:
                break
            ids.append(candidate.id)
        return ids
