"""Other receivers that use the same Redis, and what an earlier release left there."""

from dataclasses import dataclass

from redis import Redis

from app.errors import QueueUnavailable
from app.redis.connection import is_wrong_type
from app.redis.queue import UNNAMED, DeliveryQueue, list_namespaces
from app.redis.spool import Spool

# Stands for UNNAMED on the command line.
UNNAMED_OPTION = "unnamed"
_MAX_OTHER_RECEIVERS = 20


@dataclass(frozen=True, slots=True)
class OtherReceiver:
    """Another receiver in the same Redis.

    namespace: UNNAMED for the keys of an earlier release. workers: the number of live ones.
    """

    namespace: str
    workers: int
    spooled: int
    unreadable: int = 0

    @property
    def name(self) -> str:
        """The name for messages."""
        return self.namespace or "an earlier release"

    @property
    def is_stranded(self) -> bool:
        """Whether deliveries wait in its spool, and no worker empties it."""
        return bool(self.spooled and not self.workers)

    @property
    def adopt_command(self) -> str:
        """The command that moves its spool to the inbox."""
        return f"rapidbridge migrate --adopt-spool {self.namespace or UNNAMED_OPTION}"


def find_other_receivers(redis: Redis, namespace: str) -> list[OtherReceiver]:
    """Return the receivers with workers or spooled deliveries, except that of a namespace.

    At most 20, for a bounded time. Raises QueueUnavailable.
    """
    others = []
    for other in [UNNAMED, *sorted(list_namespaces(redis) - {namespace})[:_MAX_OTHER_RECEIVERS]]:
        spool = Spool(redis, other)
        try:
            workers = DeliveryQueue(redis, other).count_workers()
            others.append(OtherReceiver(other, workers, spool.count(), spool.count_unreadable()))
        except QueueUnavailable as error:
            # A key of another type is no receiver's.
            if not is_wrong_type(error.__cause__):
                raise
    # A namespace stays listed after its receiver is gone.
    return [other for other in others if other.workers or other.spooled or other.unreadable]
