"""The time that the service takes to recover from each fault."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import func, select

from app.database.engine import Database
from app.errors import StoreUnavailable
from app.store.models import DeliveryState
from app.store.pending import PendingDeliveries
from app.store.schema import deliveries
from tests.chaos.plan import Fault
from tests.chaos.spools import count_spooled
from tests.chaos.traffic import Traffic

_POLL_S = 0.2
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Recovery:
    """The recovery from a fault. started_s, ended_s: seconds since the watch started.

    recovered_s: from its end until a delivery was acknowledged again and no delivery from before was pending;
    None if it never recovered.
    """

    kind: str
    started_s: float
    ended_s: float
    recovered_s: float | None


@dataclass(frozen=True, slots=True)
class _EndedFault:
    kind: str
    started_s: float
    ended_s: float
    ended_at: datetime


class RecoveryWatch:
    """Polls pending deliveries in a thread of its own, because a stalled database stalls it.

    databases, traffics: of all installations.
    """

    def __init__(self, databases: Sequence[Database], redis: Redis, traffics: Sequence[Traffic]) -> None:
        self._traffics = traffics
        self._databases = databases
        self._redis = redis
        self._started = time.monotonic()
        self._unrecovered: list[_EndedFault] = []
        self._is_over = threading.Event()
        self._must_reconnect = threading.Event()
        self.recoveries: list[Recovery] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch inside the block."""
        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(self._run)
            try:
                yield
            finally:
                self._is_over.set()
            watching.result()

    @property
    def now_s(self) -> float:
        """Seconds since the watch started."""
        return time.monotonic() - self._started

    @property
    def has_recovered(self) -> bool:
        """Whether the service has recovered from every fault so far."""
        return not self._unrecovered

    @property
    def is_idle(self) -> bool:
        """Whether no installation has a delivery to deliver."""
        return is_idle(self._databases, self._redis)

    def add_fault(self, fault: Fault, started_s: float) -> None:
        """Watch the recovery from a fault that is over now."""
        # Open connections may lead to a server that was demoted.
        self._must_reconnect.set()
        self._unrecovered.append(_EndedFault(fault.kind, started_s, self.now_s, datetime.now(UTC)))

    def _run(self) -> None:
        while not self._is_over.wait(_POLL_S):
            if self._must_reconnect.is_set():
                self._must_reconnect.clear()
                self._reconnect()
            oldest = self._oldest_waiting_at()
            for fault in list(self._unrecovered):
                is_acknowledging = all(traffic.acknowledged_at > fault.ended_at for traffic in self._traffics)
                if is_acknowledging and (oldest is None or oldest > fault.ended_at):
                    self._record_recovery(fault, self.now_s - fault.ended_s)
        for fault in list(self._unrecovered):
            self._record_recovery(fault, None)

    def _reconnect(self) -> None:
        self._redis.connection_pool.disconnect(inuse_connections=False)
        for database in self._databases:
            database.close()

    def _record_recovery(self, fault: _EndedFault, recovered_s: float | None) -> None:
        self.recoveries.append(Recovery(fault.kind, fault.started_s, fault.ended_s, recovered_s))
        self._unrecovered.remove(fault)

    def _oldest_waiting_at(self) -> datetime | None:
        """Return the time of the oldest pending delivery; None if there is none."""
        try:
            if count_spooled(self._redis):
                return _LONG_AGO
            times = [PendingDeliveries(database).find_oldest_received_at() for database in self._databases]
            return min((time for time in times if time), default=None)
        except (StoreUnavailable, RedisError):
            return _LONG_AGO


def is_idle(databases: Sequence[Database], redis: Redis) -> bool:
    """Whether no delivery is pending or spooled, not even one that is held back for its sink or load."""
    pending = select(func.count()).where(deliveries.c.state == DeliveryState.PENDING)
    try:
        return not count_spooled(redis) and not any(database.read(pending)[0][0] for database in databases)
    except (StoreUnavailable, RedisError):
        return False
