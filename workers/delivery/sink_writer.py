"""Writing of one delivery's records to the sinks of its route."""

import time
from collections.abc import Mapping, Sequence

from app.config.routes import Route
from app.database.engine import Database
from app.errors import JobTimeout, SinkUnavailable
from app.sinks.registry import SinkRegistry
from app.store.held import LOAD_SCOPE
from app.store.models import Delivery, SinkOutcome
from app.store.reasons import Reason
from app.tracing import tracing
from workers.delivery.breaker import Hold, SinkBreaker
from workers.delivery.delivery_write import DeliveryWrite, SinkAttempt, WrittenSlice
from workers.delivery.joined_writes import JoinedWrites
from workers.delivery.misfit_counter import MisfitCounter
from workers.delivery.parser import ParsedDelivery, ParsedSlice
from workers.delivery.slow_sinks import SlowSinks
from workers.delivery.spans import set_outcome
from workers.delivery.work_recorder import WorkRecorder

# Their text is kept in memory until the job saves it in one transaction.
MAX_DEAD_RECORDS = 5000

_WAITS_FOR_LOAD = Hold(LOAD_SCOPE, Reason.IN_LOAD, "")


class SinkWriter:
    """Writes deliveries to sinks slice by slice, and holds those of paused, failing and slow sinks.

    Deliveries of a sink that writes loads wait for its next load. config: the digest of the routes and sinks.
    database: of the store.
    """

    def __init__(
        self,
        sinks: SinkRegistry,
        config: str,
        database: Database,
        work: WorkRecorder,
        *,
        slow_sinks: SlowSinks,
    ) -> None:
        self._sinks = sinks
        self._work = work
        self._config = config
        self._breaker = SinkBreaker(database)
        self._misfits = MisfitCounter(database)
        self._slow_sinks = slow_sinks
        self._joined_writes = JoinedWrites(sinks, self._breaker, slow_sinks, work)

    def write_joined(self, writes: Sequence[DeliveryWrite]) -> None:
        """Write records of several deliveries together if possible; `write` writes all others.

        Raises JobTimeout.
        """
        self._joined_writes.write(writes)

    def prepare(
        self, delivery: Delivery, parsed: ParsedDelivery, route: Route, earlier: Mapping[str, SinkOutcome]
    ) -> Sequence[DeliveryWrite]:
        """Return the writes of a delivery, one for each sink. earlier: the outcomes of earlier attempts."""
        return [
            DeliveryWrite(delivery, parsed, route, name, earlier=earlier.get(name), config=self._config)
            for name in route.sinks
        ]

    def write(self, writes: Sequence[DeliveryWrite], *, deadline_s: float) -> Sequence[SinkAttempt]:
        """Write a delivery to every sink of its route except those that are done.

        deadline_s: on the monotonic clock; after it, each sink still gets one slice. The sinks after one that
        timed out are not written.
        """
        attempts: list[SinkAttempt] = []
        for write in writes:
            if write.is_ended:
                attempts.append(write.skip())
            elif self._sinks.has_loads(write.sink) or write.is_in_load:
                # Also if the sink has no loads any more: the delivery may be in an open one.
                attempts.append(write.hold(_WAITS_FOR_LOAD))
            elif write.joined:
                attempts.append(self._write_in_span(write, deadline_s=deadline_s))
            elif any(attempt.has_timed_out for attempt in attempts):
                attempts.append(write.postpone())
            elif hold := self._find_hold(write):
                attempts.append(write.hold(hold))
            else:
                attempts.append(self._write_in_span(write, deadline_s=deadline_s))
        return attempts

    def _find_hold(self, write: DeliveryWrite) -> Hold | None:
        hold = self._breaker.find_hold(write.sink, write.table)
        return hold or self._slow_sinks.find_hold(write.sink)

    def save_statistics(self) -> None:
        """Store the times of the last writes, and the counts of misfits, every few seconds."""
        self._breaker.save_writes()
        self._misfits.save()

    def _write_in_span(self, write: DeliveryWrite, *, deadline_s: float) -> SinkAttempt:
        with tracing.start_span("sink.write", kind="client", sink=write.sink) as span:
            attempt = self._write_to_sink(write, deadline_s=deadline_s)
            set_outcome(span, attempt.outcome)
        return attempt

    def _write_to_sink(self, write: DeliveryWrite, *, deadline_s: float) -> SinkAttempt:
        name, table = write.sink, write.table
        for parsed_slice in write.read_rest():
            began_s = time.monotonic()
            try:
                routed, results = write.joined or self._write_slice(write, parsed_slice)
            except (SinkUnavailable, JobTimeout) as error:
                if isinstance(error, SinkUnavailable) and error.is_batch_timeout:
                    write.shrink_batches(len(parsed_slice.records))
                took_s = time.monotonic() - began_s
                reason, hold = self._breaker.record_failure(
                    name, table, error, delivery_id=write.delivery.id, took_s=took_s
                )
                return write.fail(error, reason, hold)
            except Exception as error:  # noqa: BLE001  # a bug in one sink must not fail the others
                return write.fail_internally(error)
            self._breaker.record_success(name, table)
            for result in results:
                self._misfits.count(name, write.parsed.resource, result.misfits)
                if result.misfits:
                    self._work.record_misfits(name, sum(result.misfits.values()))
            write.add_slice(parsed_slice, routed, results)
            is_over = time.monotonic() >= deadline_s or len(write.dead_records) >= MAX_DEAD_RECORDS
            if is_over and not parsed_slice.is_last:
                return write.pause()
        return write.finish()

    def _write_slice(self, write: DeliveryWrite, parsed_slice: ParsedSlice) -> WrittenSlice:
        began_s = time.monotonic()
        try:
            sink = self._sinks.open(write.sink)
            routed = write.route_records(parsed_slice)
            batches = write.build_batches(parsed_slice, routed)
            written = WrittenSlice(routed, [sink.write(batch, write.route) for batch in batches])
            self._slow_sinks.record_write(write.sink, time.monotonic() - began_s)
            return written
        finally:
            self._work.record_write(write.sink, time.monotonic() - began_s)
