"""Writes of several deliveries to one table in one statement."""

import time
from collections.abc import Iterator, Sequence

import structlog

from app.errors import JobTimeout
from app.logs import locate_error
from app.sinks.base import JoiningSink
from app.sinks.registry import SinkRegistry
from app.tracing import tracing
from workers.delivery.breaker import SinkBreaker
from workers.delivery.delivery_write import DeliveryWrite, WrittenSlice
from workers.delivery.slow_sinks import SlowSinks
from workers.delivery.work_recorder import WorkRecorder

# With more, a statement needs more memory, and PostgreSQL more time for each of them.
MAX_JOINED_RECORDS = 500
# Pages of 50 records of 1 KB are as fast alone: the parsed records of several leave the processor's cache.
MAX_JOINED_BYTES = 64 * 1024
# A lock on one row, for example, fails all deliveries of a statement: then each is written alone for a while.
_PAUSE_S = 60.0

log = structlog.get_logger()


class JoinedWrites:
    """Writes the only slices of deliveries together, and leaves their results in `DeliveryWrite.joined`.

    Only to sinks that can do so, and that are neither slow nor failing. If it fails, each delivery is written
    alone, so that no other one is the reason of its outcome.
    """

    def __init__(
        self, sinks: SinkRegistry, breaker: SinkBreaker, slow_sinks: SlowSinks, work: WorkRecorder
    ) -> None:
        self._sinks = sinks
        self._breaker = breaker
        self._slow_sinks = slow_sinks
        self._work = work
        self._paused_until_s: dict[tuple[str, str], float] = {}

    def write(self, writes: Sequence[DeliveryWrite]) -> None:
        """Write what can be joined; raises JobTimeout."""
        for group in _group_writes([write for write in writes if not self._sinks.has_loads(write.sink)]):
            name, table = place = group[0].sink, group[0].table
            if time.monotonic() < self._paused_until_s.get(place, 0.0):
                continue
            try:
                sink = self._sinks.open(name)
                is_free = self._breaker.is_closed(name, table) and not self._slow_sinks.is_slow(name)
                if isinstance(sink, JoiningSink) and is_free:
                    self._write_group(sink, group)
            except JobTimeout:
                self._pause(place)
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, the write of each delivery shows it
                self._pause(place)
                failure = f"{type(error).__name__} at {locate_error(error)}"
                log.warning("sink.join_failed", sink=name, table=table, deliveries=len(group), error=failure)

    def _write_group(self, sink: JoiningSink, writes: Sequence[DeliveryWrite]) -> None:
        name, route = writes[0].sink, writes[0].route
        began_s = time.monotonic()
        try:
            with tracing.start_span("sink.write", kind="client", sink=name, deliveries=len(writes)):
                routed, batches = [], []
                for write in writes:
                    [parsed_slice] = write.read_rest()
                    records = write.route_records(parsed_slice)
                    [batch] = write.build_batches(parsed_slice, records)
                    routed.append(records)
                    batches.append(batch)
                results = sink.write_batches(batches, route)
            self._slow_sinks.record_write(name, time.monotonic() - began_s)
        finally:
            self._work.record_write(name, time.monotonic() - began_s)
        for write, records, result in zip(writes, routed, results, strict=True):
            write.joined = WrittenSlice(records, [result])

    def _pause(self, place: tuple[str, str]) -> None:
        self._paused_until_s[place] = time.monotonic() + _PAUSE_S


def _group_writes(writes: Sequence[DeliveryWrite]) -> Iterator[Sequence[DeliveryWrite]]:
    """Yield writes to the same table, two or more, with as many records as one statement may have."""
    groups: dict[tuple[str, str, int, bool], list[DeliveryWrite]] = {}
    for write in writes:
        if write.may_join:
            key = (write.sink, write.parsed.resource, id(write.route), write.parsed.is_deletion)
            groups.setdefault(key, []).append(write)
    for group in groups.values():
        yield from _split_group(group)


def _split_group(writes: Sequence[DeliveryWrite]) -> Iterator[Sequence[DeliveryWrite]]:
    part: list[DeliveryWrite] = []
    records = 0
    for write in writes:
        if records + write.parsed.record_count > MAX_JOINED_RECORDS:
            if len(part) > 1:
                yield part
            part, records = [], 0
        part.append(write)
        records += write.parsed.record_count
    if len(part) > 1:
        yield part
