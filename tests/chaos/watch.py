"""Sees how long it takes until all is well again after a fault."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from redis import Redis
from redis.exceptions import RedisError

from app.database.engine import Database
from app.errors import StoreUnavailable
from app.redis.spool import KEY as SPOOL
from app.store.pending import PendingDeliveries
from tests.chaos.plan import Fault
from tests.chaos.traffic import Traffic

_POLL_S = 0.2
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a fault cost, in seconds since the watch began.

    recovered_s: from its end until a delivery was acknowledged again and nothing that came before the end
    waited any more; None if that never was.
    """

    kind: str
    began_s: float
    ended_s: float
    recovered_s: float | None


@dataclass(frozen=True, slots=True)
class _EndedFault:
    kind: str
    began_s: float
    ended_s: float
    ended_at: datetime


class RecoveryWatch:
    """Looks several times a second at what waits; in a thread of its own, since a stalled store stalls it."""

    def __init__(self, store: Database, redis: Redis, traffic: Traffic) -> None:
        self._traffic = traffic
        self._worklist = PendingDeliveries(store)
        self._redis = redis
        self._began = time.monotonic()
        self._unrecovered: list[_EndedFault] = []
        self._is_over = threading.Event()
        self.recoveries: list[Recovery] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch inside."""
        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(self._run)
            try:
                yield
            finally:
                self._is_over.set()
            watching.result()

    @property
    def now_s(self) -> float:
        """Seconds since the watch began."""
        return time.monotonic() - self._began

    @property
    def has_recovered(self) -> bool:
        """Whether the service has recovered from every fault so far."""
        return not self._unrecovered

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits anywhere."""
        return self._oldest_waiting_at() is None

    def add_fault(self, fault: Fault, began_s: float) -> None:
        """Remember a fault that is over now."""
        self._unrecovered.append(_EndedFault(fault.kind, began_s, self.now_s, datetime.now(UTC)))

    def _run(self) -> None:
        while not self._is_over.wait(_POLL_S):
            oldest = self._oldest_waiting_at()
            for past in list(self._unrecovered):
                is_heard = self._traffic.acknowledged_at > past.ended_at
                if is_heard and (oldest is None or oldest > past.ended_at):
                    self._record_recovery(past, self.now_s - past.ended_s)
        for past in list(self._unrecovered):
            self._record_recovery(past, None)

    def _record_recovery(self, fault: _EndedFault, recovered_s: float | None) -> None:
        self.recoveries.append(Recovery(fault.kind, fault.began_s, fault.ended_s, recovered_s))
        self._unrecovered.remove(fault)

    def _oldest_waiting_at(self) -> datetime | None:
        """Return when the oldest that waits came; None where nothing does."""
        try:
            return _LONG_AGO if self._redis.xlen(SPOOL) else self._worklist.find_oldest_received_at()
        except (StoreUnavailable, RedisError):
            return _LONG_AGO
