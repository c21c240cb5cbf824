"""Writing of one delivery's records to the sinks of its route."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from app.clock import utc_now
from app.config.routes import Route
from app.database.engine import Database
from app.errors import JobTimeout, SinkUnavailable
from app.logs import locate_error
from app.routing.records import RecordRouter, RoutedRecords
from app.sinks.base import Batch, Record, WriteResult
from app.sinks.registry import SinkRegistry
from app.store.models import DeadRecord, Delivery, SinkOutcome, SinkOutcomeState
from app.store.reasons import Reason
from app.tracing import tracing
from workers.delivery.breaker import Hold, SinkBreaker
from workers.delivery.misfit_counter import MisfitCounter
from workers.delivery.parser import ParsedDelivery, ParsedSlice
from workers.delivery.spans import set_outcome
from workers.delivery.work_recorder import WorkRecorder
from workers.delivery.write_progress import WriteProgress

# Each attempt costs 15 s and a backoff: few must be enough.
_SHRINK_FACTOR = 4
# Their text is kept in memory until the job saves it in one transaction.
MAX_DEAD_RECORDS = 5000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SinkAttempt:
    """The result of one sink for one delivery, from this attempt or an earlier one.

    retry_after_s: the wait that the sink asks for. has_timed_out: the job's timeout interrupted the attempt.
    has_key: as in RoutedRecords; None if it is not known. replaced_characters: of the records written so far.
    is_restarted: the sink gets records again that an earlier attempt wrote. account: the only one that the
    records name, if the sink has all of them; else "".
    """

    outcome: SinkOutcome
    dead_records: Sequence[DeadRecord] = ()
    retry_after_s: float = 0.0
    has_timed_out: bool = False
    has_key: bool | None = None
    replaced_characters: int = 0
    is_restarted: bool = False
    account: str = ""


class SinkWriter:
    """Writes deliveries to sinks slice by slice, and holds those of paused and failing sinks.

    config: the digest of the routes and sinks. database: of the store.
    """

    def __init__(self, sinks: SinkRegistry, config: str, database: Database, work: WorkRecorder) -> None:
        self._sinks = sinks
        self._work = work
        self._config = config
        self._breaker = SinkBreaker(database)
        self._misfits = MisfitCounter(database)

    def write(
        self,
        delivery: Delivery,
        parsed: ParsedDelivery,
        route: Route,
        earlier: Mapping[str, SinkOutcome],
        *,
        deadline_s: float,
    ) -> Sequence[SinkAttempt]:
        """Write to every sink of the route except those that are done.

        earlier: the outcomes of earlier attempts, by sink. deadline_s: on the monotonic clock; after it, each
        sink still gets one slice. The sinks after one that timed out are not written.
        """
        attempts: list[SinkAttempt] = []
        for name in route.sinks:
            outcome = earlier.get(name) or SinkOutcome(
                delivery.id, name, SinkOutcomeState.FAILING, 0, 0, Reason.IN_PROGRESS, "", utc_now()
            )
            write = _SinkWrite(delivery, parsed, route, outcome, self._config)
            if outcome.state in (SinkOutcomeState.DONE, SinkOutcomeState.DEAD):
                # Another sink's failure does not repeat a finished one.
                attempts.append(write.skip())
            elif any(attempt.has_timed_out for attempt in attempts):
                attempts.append(write.postpone())
            elif hold := self._breaker.find_hold(name, _name_table(parsed, route)):
                attempts.append(write.hold(hold))
            else:
                with tracing.start_span("sink.write", kind="client", sink=name) as span:
                    attempt = self._write_to_sink(write, route, deadline_s=deadline_s)
                    set_outcome(span, attempt.outcome)
                attempts.append(attempt)
        return attempts

    def save_statistics(self) -> None:
        """Store the times of the last writes, and the counts of misfits, every few seconds."""
        self._breaker.save_writes()
        self._misfits.save()

    def _write_to_sink(self, write: "_SinkWrite", route: Route, *, deadline_s: float) -> SinkAttempt:
        name, table = write.sink, _name_table(write.parsed, route)
        for parsed_slice in write.read_rest():
            began_s = time.monotonic()
            try:
                sink = self._sinks.open(name)
                routed = write.route_records(parsed_slice)
                results = [sink.write(batch, route) for batch in write.build_batches(parsed_slice, routed)]
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
            finally:
                self._work.record_write(name, time.monotonic() - began_s)
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


class _SinkWrite:
    """The writing of one delivery to one sink in one job."""

    def __init__(
        self, delivery: Delivery, parsed: ParsedDelivery, route: Route, earlier: SinkOutcome, config: str
    ) -> None:
        self.delivery = delivery
        self.sink = earlier.sink
        self.dead_records: list[DeadRecord] = []
        self.parsed = parsed
        self._earlier = earlier
        self._version = delivery.envelope.created_at or delivery.received_at
        self._router = RecordRouter(
            route,
            delivery_id=delivery.id,
            received_at=delivery.received_at,
            version=self._version,
            is_deletion=parsed.is_deletion,
        )
        self._now = utc_now()
        # By other routes, or under another account, the sink must get all records again.
        target = f"{config} {delivery.envelope.integrated_account_id}"
        self._stored = stored = WriteProgress.from_json(earlier.progress)
        # Workers of the earlier release reset the counts, and leave the progress as it is.
        is_continued = stored.target == target and (stored.written, stored.dead) == (
            earlier.written,
            earlier.dead,
        )
        self._progress = stored if is_continued else WriteProgress(target)
        self._is_restarted = not is_continued and any(
            (earlier.written, earlier.dead, stored.written, stored.dead)
        )

    def read_rest(self) -> Iterator[ParsedSlice]:
        """Parse the slices that the sink does not have, in parts if larger batches took too long."""
        max_records = self._progress.max_records
        for parsed_slice in self.parsed.read_slices(first_ordinal=self._progress.next_ordinal):
            yield from parsed_slice.split(max_records) if max_records else (parsed_slice,)

    def shrink_batches(self, records: int) -> None:
        """Write smaller batches from the next attempt on. records: in the batch that took too long."""
        max_records = max(1, records // _SHRINK_FACTOR)
        self._progress = replace(self._progress, max_records=max_records)

    def route_records(self, parsed_slice: ParsedSlice) -> RoutedRecords:
        """Return the records of a slice as the route sends them."""
        return self._router.route(parsed_slice.records, parsed_slice.source.batch.originals)

    def build_batches(self, parsed_slice: ParsedSlice, routed: RoutedRecords) -> Sequence[Batch]:
        """Return one batch for each account of a slice's records."""
        delivery, parsed = self.delivery, self.parsed
        own_account = delivery.envelope.integrated_account_id
        # Without records, the sink still creates its table.
        by_account: dict[str, list[Record]] = {} if parsed.account_path else {own_account: []}
        for record in routed.records:
            account = parsed_slice.accounts.get(record.ordinal, own_account)
            by_account.setdefault(account, []).append(record)
        return [
            Batch(
                delivery_id=delivery.id,
                received_at=delivery.received_at,
                version=self._version,
                resource=parsed.resource,
                method=parsed.method,
                account=account,
                job=delivery.envelope.sync_job_id,
                run=delivery.envelope.sync_job_run_id,
                records=records,
                is_deletion=parsed.is_deletion,
                first_ordinal=parsed_slice.source.first_ordinal,
            )
            for account, records in by_account.items()
        ]

    def add_slice(
        self, parsed_slice: ParsedSlice, routed: RoutedRecords, results: Sequence[WriteResult]
    ) -> None:
        """Add the results of a slice, one for each batch."""
        progress = self._progress
        rejected = [*routed.rejected, *(record for result in results for record in result.rejected)]
        raw = parsed_slice.source.read_raw_records([record.ordinal for record in rejected])
        dead = [
            DeadRecord(
                self.delivery.id,
                self.sink,
                record.ordinal,
                record.reason,
                record.message,
                raw.get(record.ordinal, ""),
                self._now,
            )
            for record in rejected
        ]
        self.dead_records += [*parsed_slice.unreadable, *dead]
        accounts = {*parsed_slice.accounts.values(), progress.account} - {None}
        has_key = [k for k in (progress.has_key, routed.has_key) if k is not None]
        self._progress = replace(
            progress,
            next_ordinal=parsed_slice.next_ordinal,
            written=progress.written + sum(result.written for result in results),
            dead=progress.dead + len(parsed_slice.unreadable) + len(dead),
            filtered=progress.filtered + routed.filtered,
            replaced_characters=progress.replaced_characters + parsed_slice.replaced_characters,
            has_key=any(has_key) if has_key else None,
            account="" if len(accounts) > 1 else next(iter(accounts), None),
        )

    def pause(self) -> SinkAttempt:
        """Return the attempt of a delivery that a later job continues."""
        return self._end(SinkOutcomeState.FAILING, Reason.IN_PROGRESS)

    def finish(self) -> SinkAttempt:
        """Return the attempt of a delivery that the sink has completely."""
        progress = self._progress
        return replace(
            self._end(SinkOutcomeState.DONE), has_key=progress.has_key, account=progress.account or ""
        )

    def fail(self, error: SinkUnavailable | JobTimeout, reason: str, hold: Hold | None) -> SinkAttempt:
        """Return the attempt of a delivery that is retried; hold: it is held instead."""
        attempt = self.hold(hold) if hold else self._end(SinkOutcomeState.FAILING, reason, str(error))
        return replace(
            attempt,
            retry_after_s=error.retry_after_s or 0.0,
            has_timed_out=isinstance(error, JobTimeout),
        )

    def hold(self, hold: Hold) -> SinkAttempt:
        """Return the attempt of a delivery that is not written until its sink accepts deliveries again."""
        attempt = self._end(SinkOutcomeState.FAILING, hold.reason, hold.message)
        received_at = self.delivery.received_at
        held = replace(attempt.outcome, held_scope=hold.scope, held_received_at=received_at)
        return replace(attempt, outcome=held)

    def fail_internally(self, error: Exception) -> SinkAttempt:
        """Log an error of this project's code; return the attempt of a delivery that is retried."""
        # The message may quote a record: store only the place in the code.
        failure = f"{type(error).__name__} at {locate_error(error)}"
        log.error("sink.failed", sink=self.sink, delivery=str(self.delivery.id), error=failure)
        return self._end(SinkOutcomeState.FAILING, Reason.INTERNAL_ERROR, f"the receiver failed: {failure}")

    def skip(self) -> SinkAttempt:
        """Return the attempt of a delivery that the sink already has, or never accepts."""
        stored = self._stored
        return SinkAttempt(
            self._earlier, replaced_characters=stored.replaced_characters, account=stored.account or ""
        )

    def postpone(self) -> SinkAttempt:
        """Return the attempt of a delivery that is not written now."""
        message = "not written: another sink of the delivery timed out"
        return self._end(SinkOutcomeState.FAILING, Reason.SINK_UNAVAILABLE, message)

    def _end(self, state: SinkOutcomeState, reason: str = "", message: str = "") -> SinkAttempt:
        progress = self._progress
        outcome = SinkOutcome(
            self.delivery.id,
            self.sink,
            state,
            progress.written,
            progress.dead,
            reason,
            message,
            self._now,
            progress=progress.to_json() if self.parsed.is_large or progress.max_records else "",
            filtered=progress.filtered,
        )
        return SinkAttempt(
            outcome,
            self.dead_records,
            # A later slice may have the key.
            has_key=progress.has_key or None,
            replaced_characters=progress.replaced_characters,
            is_restarted=self._is_restarted,
        )


def _name_table(parsed: ParsedDelivery, route: Route) -> str:
    """Return the table that a failure concerns, as far as its name is known without the sink."""
    return f"{route.table} ({parsed.resource})" if route.table else parsed.resource or "(none)"
