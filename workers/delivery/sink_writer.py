"""Writing of one delivery's records to the sinks of its route."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog

from app.clock import utc_now
from app.config.routes import Route
from app.errors import JobTimeout, SinkRefused, SinkUnavailable
from app.logs import locate_error
from app.sinks.base import Batch, Record, RejectedRecord
from app.sinks.registry import SinkRegistry
from app.store.models import DeadRecord, Delivery, SinkOutcome, SinkOutcomeState
from app.store.reasons import Reason
from workers.delivery.parser import ParsedDelivery

# A sink that fails faster costs too little time to need a cooldown.
_SLOW_FAILURE_S = 2.0
# An unresponsive sink takes at most a fifth of a worker's time.
_COOLDOWN_FACTOR = 4.0
# No job, so no failure, takes longer: the rest is a pause of this process, and not the sink's fault.
_MAX_FAILURE_S = 25.0

log = structlog.get_logger()


class SinkCooldown:
    """Sinks that one worker skips after slow failures. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def remaining_s(self, sink: str, *, now: float) -> float:
        """Return the rest of a sink's cooldown; 0 if it may be written."""
        return max(0.0, self._until_s.get(sink, 0.0) - now)

    def record_failure(self, sink: str, *, began: float, now: float) -> None:
        """Start a cooldown if the failure was slow."""
        took_s = min(now - began, _MAX_FAILURE_S)
        if took_s > _SLOW_FAILURE_S:
            self._until_s[sink] = now + took_s * _COOLDOWN_FACTOR


@dataclass(frozen=True, slots=True)
class SinkAttempt:
    """The result of one sink for one delivery, from this attempt or an earlier one.

    retry_after_s: the wait that the sink asks for. has_timed_out: the job's timeout interrupted the attempt.
    has_key: as in WriteResult; None if nothing was written.
    """

    outcome: SinkOutcome
    dead_records: Sequence[DeadRecord] = ()
    retry_after_s: float = 0.0
    has_timed_out: bool = False
    has_key: bool | None = None


class SinkWriter:
    """Writes deliveries to sinks and skips a sink during its cooldown."""

    def __init__(self, sinks: SinkRegistry) -> None:
        self._sinks = sinks
        self._cooldown = SinkCooldown()

    def write(
        self, delivery: Delivery, parsed: ParsedDelivery, route: Route, finished: Mapping[str, SinkOutcome]
    ) -> Sequence[SinkAttempt]:
        """Write to every sink of the route except those in `finished`.

        The sinks after one that timed out are not written.
        """
        batches = _build_batches(delivery, parsed)
        attempts: list[SinkAttempt] = []
        for name in route.sinks:
            if name in finished:
                # Another sink's failure does not repeat a finished one.
                attempts.append(SinkAttempt(finished[name]))
            elif any(attempt.has_timed_out for attempt in attempts):
                attempts.append(_skip_sink(name, delivery.id, parsed, cooldown_s=0.0))
            else:
                attempts.append(self._write_to_sink(name, batches, parsed, route))
        return attempts

    def _write_to_sink(
        self, name: str, batches: Sequence[Batch], parsed: ParsedDelivery, route: Route
    ) -> SinkAttempt:
        now, began, delivery_id = utc_now(), time.monotonic(), batches[0].delivery_id
        if cooldown_s := self._cooldown.remaining_s(name, now=began):
            return _skip_sink(name, delivery_id, parsed, cooldown_s=cooldown_s)
        outcome = _make_outcome(name, delivery_id, parsed, now)
        try:
            results = [self._sinks.open(name).write(batch, route) for batch in batches]
        except (SinkUnavailable, JobTimeout) as error:
            self._cooldown.record_failure(name, began=began, now=time.monotonic())
            reason = error.reason if isinstance(error, SinkRefused) else Reason.SINK_UNAVAILABLE
            return SinkAttempt(
                _fail(outcome, reason, str(error)),
                retry_after_s=error.retry_after_s or 0.0,
                has_timed_out=isinstance(error, JobTimeout),
            )
        except Exception as error:  # noqa: BLE001  # a bug in one sink must not fail the others
            # The message may quote a record: store only the place in the code.
            failure = f"{type(error).__name__} at {locate_error(error)}"
            log.error("sink.failed", sink=name, delivery=str(delivery_id), error=failure)
            return SinkAttempt(_fail(outcome, Reason.INTERNAL_ERROR, f"the receiver failed: {failure}"))
        rejected = [record for result in results for record in result.rejected]
        dead = _make_dead_records(name, delivery_id, parsed, rejected, now)
        written = sum(result.written for result in results)
        done = replace(outcome, written=written, dead=outcome.dead + len(dead))
        return SinkAttempt(done, dead, has_key=any(result.has_key for result in results))


def _make_outcome(name: str, delivery_id: UUID, parsed: ParsedDelivery, now: datetime) -> SinkOutcome:
    return SinkOutcome(delivery_id, name, SinkOutcomeState.DONE, 0, len(parsed.unreadable), "", "", now)


def _skip_sink(name: str, delivery_id: UUID, parsed: ParsedDelivery, *, cooldown_s: float) -> SinkAttempt:
    outcome = _make_outcome(name, delivery_id, parsed, utc_now())
    message = "not written: this sink, or another of the delivery, timed out recently"
    return SinkAttempt(_fail(outcome, Reason.SINK_UNAVAILABLE, message), retry_after_s=cooldown_s)


def _fail(outcome: SinkOutcome, reason: str, message: str) -> SinkOutcome:
    return replace(outcome, state=SinkOutcomeState.FAILING, reason=reason, message=message)


def _make_dead_records(
    name: str, delivery_id: UUID, parsed: ParsedDelivery, rejected: Sequence[RejectedRecord], now: datetime
) -> list[DeadRecord]:
    raw = parsed.read_raw_records([record.ordinal for record in rejected])
    return [
        DeadRecord(delivery_id, name, r.ordinal, r.reason, r.message, raw.get(r.ordinal, ""), now)
        for r in rejected
    ]


def _build_batches(delivery: Delivery, parsed: ParsedDelivery) -> list[Batch]:
    """Return one batch for each account of the delivery's records."""
    own_account = delivery.envelope.integrated_account_id
    by_account: dict[str, list[Record]] = {} if parsed.accounts else {own_account: []}
    for ordinal, value in parsed.records:
        account = parsed.accounts.get(ordinal, own_account)
        by_account.setdefault(account, []).append(Record(ordinal, value, parsed.originals.get(ordinal, "")))
    return [
        Batch(
            delivery_id=delivery.id,
            received_at=delivery.received_at,
            version=delivery.envelope.created_at or delivery.received_at,
            resource=parsed.resource,
            method=parsed.method,
            account=account,
            job=delivery.envelope.sync_job_id,
            run=delivery.envelope.sync_job_run_id,
            records=records,
            is_deletion=parsed.is_deletion,
        )
        for account, records in by_account.items()
    ]
