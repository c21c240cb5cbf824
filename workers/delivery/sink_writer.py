"""Writing of one delivery's records to the sinks of its route."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from app.clock import utc_now
from app.config.routes import Route
from app.errors import JobTimeout, SinkRefused, SinkUnavailable
from app.sinks.base import Batch, Record, WriteResult
from app.sinks.registry import SinkRegistry
from app.store.models import DeadRecord, Delivery, SinkOutcome, SinkOutcomeState
from app.store.reasons import Reason
from workers.delivery.parser import ParsedDelivery

# A sink that fails faster costs too little time to need a cooldown.
_SLOW_FAILURE_S = 2.0
# An unresponsive sink takes at most a fifth of a worker's time.
_COOLDOWN_FACTOR = 4.0


class SinkCooldown:
    """Sinks that one worker skips after slow failures. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def remaining_s(self, sink: str, *, now: float) -> float:
        """Return the rest of a sink's cooldown; 0 if it may be written."""
        return max(0.0, self._until_s.get(sink, 0.0) - now)

    def record_failure(self, sink: str, *, began: float, now: float) -> None:
        """Start a cooldown if the failure was slow."""
        took_s = now - began
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
        batch = _build_batch(delivery, parsed)
        attempts: list[SinkAttempt] = []
        for name in route.sinks:
            if name in finished:
                # Another sink's failure does not repeat a finished one.
                attempts.append(SinkAttempt(finished[name]))
            elif any(attempt.has_timed_out for attempt in attempts):
                attempts.append(_skip_sink(name, batch, parsed, cooldown_s=0.0))
            else:
                attempts.append(self._write_to_sink(name, batch, parsed, route))
        return attempts

    def _write_to_sink(self, name: str, batch: Batch, parsed: ParsedDelivery, route: Route) -> SinkAttempt:
        now, began = utc_now(), time.monotonic()
        if cooldown_s := self._cooldown.remaining_s(name, now=began):
            return _skip_sink(name, batch, parsed, cooldown_s=cooldown_s)
        outcome = _make_outcome(name, batch, parsed, now)
        try:
            written = self._sinks.open(name).write(batch, route)
        except (SinkUnavailable, JobTimeout) as error:
            self._cooldown.record_failure(name, began=began, now=time.monotonic())
            return SinkAttempt(
                replace(
                    outcome,
                    state=SinkOutcomeState.FAILING,
                    reason=Reason.SINK_UNAVAILABLE,
                    message=str(error),
                ),
                retry_after_s=error.retry_after_s or 0.0,
                has_timed_out=isinstance(error, JobTimeout),
            )
        except SinkRefused as error:
            refused = replace(
                outcome,
                state=SinkOutcomeState.DEAD,
                dead=parsed.record_count,
                reason=error.reason,
                message=str(error),
            )
            return SinkAttempt(refused)
        dead = _make_dead_records(name, batch, parsed, written, now)
        done = replace(outcome, written=written.written, dead=outcome.dead + len(dead))
        return SinkAttempt(done, dead, has_key=written.has_key)


def _make_outcome(name: str, batch: Batch, parsed: ParsedDelivery, now: datetime) -> SinkOutcome:
    return SinkOutcome(batch.delivery_id, name, SinkOutcomeState.DONE, 0, len(parsed.unreadable), "", "", now)


def _skip_sink(name: str, batch: Batch, parsed: ParsedDelivery, *, cooldown_s: float) -> SinkAttempt:
    outcome = _make_outcome(name, batch, parsed, utc_now())
    message = "not written: this sink, or another of the delivery, timed out recently"
    failing = replace(
        outcome, state=SinkOutcomeState.FAILING, reason=Reason.SINK_UNAVAILABLE, message=message
    )
    return SinkAttempt(failing, retry_after_s=cooldown_s)


def _make_dead_records(
    name: str, batch: Batch, parsed: ParsedDelivery, written: WriteResult, now: datetime
) -> list[DeadRecord]:
    raw = parsed.read_raw_records([rejected.ordinal for rejected in written.rejected])
    return [
        DeadRecord(batch.delivery_id, name, r.ordinal, r.reason, r.message, raw.get(r.ordinal, ""), now)
        for r in written.rejected
    ]


def _build_batch(delivery: Delivery, parsed: ParsedDelivery) -> Batch:
    return Batch(
        delivery_id=delivery.id,
        received_at=delivery.received_at,
        version=delivery.envelope.created_at or delivery.received_at,
        resource=parsed.resource,
        method=parsed.method,
        account=delivery.envelope.integrated_account_id,
        job=delivery.envelope.sync_job_id,
        run=delivery.envelope.sync_job_run_id,
        records=[Record(ordinal, value) for ordinal, value in parsed.records],
        is_deletion=parsed.is_deletion,
    )
