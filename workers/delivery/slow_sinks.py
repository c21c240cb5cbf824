"""Slow sinks: they get a part of the workers' time, so that the other sinks get theirs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from app.clock import utc_now
from app.database.engine import Database
from app.errors import StoreUnavailable
from app.logs import FaultLog
from app.store.held import SLOW_SCOPE
from app.store.reasons import Reason
from app.store.sink_states import SinkStates
from app.store.worker_registry import WorkerRegistry
from workers.delivery.breaker import Hold

_SLOW_WRITE_S = 1.0
# One slow write may be a pause of this machine.
_SLOW_WRITES = 3
# Then a write shows whether the sink is still slow.
_RETRY_AFTER_S = 60.0
_STORE_INTERVAL_S = 20.0
_COUNT_INTERVAL_S = 10.0

log = structlog.get_logger()


@dataclass(slots=True)
class _Writes:
    """The last writes to a sink. number: of the slow ones in a row. ended_at_s: on the monotonic clock."""

    number: int = 0
    took_s: float = 0.0
    ended_at_s: float = 0.0
    stored_at_s: float | None = None


class SlowSinks:
    """Decides whether this worker writes to a slow sink: one whose last three writes took a second or more.

    Half of the workers do not: their names come first. A worker that is alone rests from the sink for as long
    as its last write took. worker: the name of this one in the registry. has_others: another sink is written,
    too; otherwise nothing is held. clock: of the store's times; monotonic: in seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        worker: str,
        has_others: bool,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._states = SinkStates(database)
        self._registry = WorkerRegistry(database)
        self._worker = worker
        self._has_others = has_others
        self._clock = clock
        self._monotonic = monotonic
        self._writes: dict[str, _Writes] = {}
        self._is_alone = self._is_reserved = False
        self._counted_at_s: float | None = None
        self._fault = FaultLog("slow_sinks.unavailable", "slow_sinks.available")

    def is_slow(self, sink: str) -> bool:
        """Whether a sink is slow, by this worker's last writes."""
        writes = self._writes.get(sink)
        return (
            writes is not None
            and writes.number >= _SLOW_WRITES
            and self._monotonic() - writes.ended_at_s < _RETRY_AFTER_S
        )

    def find_hold(self, sink: str) -> Hold | None:
        """Return the reason to hold a delivery for a slow sink; None if it may be written."""
        if not self._has_others or not self.is_slow(sink):
            return None
        self._count_workers()
        writes = self._writes[sink]
        is_resting = self._is_alone and self._monotonic() - writes.ended_at_s < writes.took_s
        if not self._is_reserved and not is_resting:
            return None
        message = f"waits for its turn: the sink took {writes.took_s:.1f} s for a write"
        return Hold(SLOW_SCOPE, Reason.SINK_SLOW, message)

    def record_write(self, sink: str, took_s: float) -> None:
        """Record a successful write. took_s: its duration."""
        if took_s < _SLOW_WRITE_S:
            self._writes.pop(sink, None)
            return
        writes = self._writes.setdefault(sink, _Writes())
        writes.number += 1
        writes.took_s, writes.ended_at_s = took_s, self._monotonic()
        if self._has_others and writes.number >= _SLOW_WRITES:
            self._store(sink, writes)

    def _store(self, sink: str, writes: _Writes) -> None:
        """Store that the sink is slow, for the releaser and for people."""
        if writes.stored_at_s is None:
            log.warning("sink.slow", sink=sink, took_s=round(writes.took_s, 1))
        elif writes.ended_at_s - writes.stored_at_s < _STORE_INTERVAL_S:
            return
        writes.stored_at_s = writes.ended_at_s
        try:
            self._states.record_slow(
                sink,
                until=self._clock() + timedelta(seconds=_RETRY_AFTER_S),
                message=f"a write took {writes.took_s:.1f} s",
            )
        except StoreUnavailable as error:
            self._fault.add(str(error))
        else:
            self._fault.end()

    def _count_workers(self) -> None:
        """Find the place of this worker among the live ones, every few seconds."""
        now_s = self._monotonic()
        if self._counted_at_s is not None and now_s - self._counted_at_s < _COUNT_INTERVAL_S:
            return
        self._counted_at_s = now_s
        try:
            names = sorted(worker.name for worker in self._registry.list_live(now=self._clock()))
        except StoreUnavailable as error:
            self._fault.add(str(error))
            return
        self._fault.end()
        self._is_alone = len(names) <= 1
        self._is_reserved = self._worker in names[: len(names) // 2]
