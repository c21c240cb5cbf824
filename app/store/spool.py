"""Where deliveries wait while the inbox cannot take them: a stream in Redis."""

import json
import zlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from app.errors import QueueUnavailable
from app.store.delivery import Arrival, Receipt, identify

KEY = "rapidbridge:spool"
_COMPRESSION_LEVEL = 1
_TIMES = ("received_at", "created_at")
# What one step of draining commits together, and holds in memory: bodies may be large.
_MOST_PER_STEP = 8

_Entry = tuple[bytes, dict[bytes, bytes]]


class Spool:
    """Keeps arrivals in order until the inbox has them. Every method raises QueueUnavailable.

    Worth what Redis is worth: without persistence, a Redis that restarts forgets them.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def put(self, arrival: Arrival) -> Receipt:
        """Keep an arrival; whether it was seen before is not known here."""
        header = {name: getattr(arrival, name) for name in Arrival.__dataclass_fields__ if name != "body"}
        entry = {
            "header": json.dumps(header, default=datetime.isoformat),
            "body": zlib.compress(arrival.body, _COMPRESSION_LEVEL),
        }
        try:
            self._redis.xadd(KEY, entry)  # type: ignore[arg-type]  # its own alias refuses str and bytes mixed
        except RedisError as error:
            raise _unavailable(error) from error
        return Receipt(
            identify(arrival.event_id, arrival.created_at, arrival.body), is_duplicate=False, is_spooled=True
        )

    def count(self) -> int:
        """Return how many arrivals wait."""
        try:
            return int(self._redis.xlen(KEY))
        except RedisError as error:
            raise _unavailable(error) from error

    def drain(self, put: Callable[[Sequence[Arrival]], object]) -> int:
        """Hand everything to `put`, oldest first, and forget what it took; return how many.

        Ends with what `put` raises. Two that drain at once hand over the same arrivals: `put` must not mind.
        """
        moved = 0
        try:
            while found := cast("list[_Entry]", self._redis.xrange(KEY, count=_MOST_PER_STEP)):
                put([_arrival(fields) for _, fields in found])
                # After the commit: whoever dies in between leaves a duplicate, not a gap.
                self._redis.xdel(KEY, *(entry_id for entry_id, _ in found))
                moved += len(found)
        except RedisError as error:
            raise _unavailable(error) from error
        return moved


def _arrival(fields: dict[bytes, bytes]) -> Arrival:
    header: dict[str, Any] = json.loads(fields[b"header"])
    times = {name: datetime.fromisoformat(header[name]) for name in _TIMES if header[name]}
    # Fields that a newer release put there are dropped rather than fatal.
    known = {name: value for name, value in header.items() if name in Arrival.__dataclass_fields__}
    return Arrival(**{**known, **times, "body": zlib.decompress(fields[b"body"])})


def _unavailable(error: RedisError) -> QueueUnavailable:
    return QueueUnavailable(f"the spool failed ({type(error).__name__}): is REDIS_URL right and up?")
