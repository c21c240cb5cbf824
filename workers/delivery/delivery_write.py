"""The writing of one delivery to one sink: its records, its progress and its outcome."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import structlog

from app.clock import utc_now
from app.config.routes import Route
from app.errors import JobTimeout, SinkUnavailable
from app.logs import locate_error
from app.routing.records import RecordRouter, RoutedRecords
from app.sinks.base import Batch, Record, WriteResult
from app.store.held import is_load_scope
from app.store.models import DeadRecord, Delivery, SinkOutcome, SinkOutcomeState
from app.store.reasons import Reason
from workers.delivery.breaker import Hold
from workers.delivery.parser import ParsedDelivery, ParsedSlice
from workers.delivery.write_progress import WriteProgress

# Each attempt costs 15 s and a backoff: few must be enough.
_SHRINK_FACTOR = 4

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


class WrittenSlice(NamedTuple):
    """The records of a slice as they were routed, and the results of their batches."""

    routed: RoutedRecords
    results: Sequence[WriteResult]


class DeliveryWrite:
    """The writing of one delivery to one sink in one job.

    earlier: the outcome of earlier attempts; None for the first one. config: the digest of the routes and
    sinks. joined: the only slice of the delivery, written together with those of others; None if it was not.
    """

    def __init__(
        self,
        delivery: Delivery,
        parsed: ParsedDelivery,
        route: Route,
        sink: str,
        *,
        earlier: SinkOutcome | None = None,
        config: str = "",
    ) -> None:
        self.delivery = delivery
        self.sink = sink
        self.dead_records: list[DeadRecord] = []
        self.parsed = parsed
        self.route = route
        self.joined: WrittenSlice | None = None
        self._now = utc_now()
        self._is_first = earlier is None or earlier.reason == Reason.SINK_RESUMED
        self._earlier = earlier = earlier or SinkOutcome(
            delivery.id, sink, SinkOutcomeState.FAILING, 0, 0, Reason.IN_PROGRESS, "", self._now
        )
        self._version = delivery.envelope.created_at or delivery.received_at
        self._router = RecordRouter(
            route,
            delivery_id=delivery.id,
            received_at=delivery.received_at,
            version=self._version,
            is_deletion=parsed.is_deletion,
        )
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

    @property
    def is_ended(self) -> bool:
        """Whether another sink's failure does not repeat the write, because it is finished."""
        return self._earlier.state in (SinkOutcomeState.DONE, SinkOutcomeState.DEAD)

    @property
    def is_in_load(self) -> bool:
        """Whether the delivery may be in an open load of the sink."""
        return is_load_scope(self._earlier.held_scope)

    @property
    def may_join(self) -> bool:
        """Whether the delivery may be written together with others.

        An earlier attempt may have failed because of the delivery: then it must not fail others.
        """
        slices = self.parsed.slices
        return (
            self._is_first
            and self._progress.max_records == 0
            and not self.delivery.lost_attempts
            and not self.parsed.account_path
            and slices is not None
            and slices.is_single
        )

    @property
    def table(self) -> str:
        """The table that a failure concerns, as far as its name is known without the sink."""
        resource = self.parsed.resource
        return f"{self.route.table} ({resource})" if self.route.table else resource or "(none)"

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
        by_account: dict[str, Sequence[Record]] = {own_account: routed.records}
        if parsed.account_path:
            by_account = _sort_by_account(routed.records, parsed_slice.accounts)
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


def _sort_by_account(records: Sequence[Record], accounts: Mapping[int, str]) -> dict[str, Sequence[Record]]:
    by_account: dict[str, list[Record]] = {}
    for record in records:
        by_account.setdefault(accounts[record.ordinal], []).append(record)
    return {**by_account}
