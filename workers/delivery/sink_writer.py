"""One delivery's records to the sinks of its route, and what each made of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app.config.routes import Route
from app.errors import JobTimeout, SinkRefused, SinkUnavailable
from app.sinks.base import Batch, Record, Sink
from app.store.models import DeadRecord, Delivery, SinkOutcome, SinkOutcomeState
from app.store.reasons import Reason
from workers.delivery.parser import ParsedDelivery

# Who fails sooner holds nobody up.
_SLOW_FAILURE_S = 2.0
# So that a sink that does not answer gets a fifth of a worker's time at most.
_COOLDOWN_FACTOR = 4.0


class SinkCooldown:
    """The sinks of one worker that rest. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def remaining_s(self, sink: str, *, now: float) -> float:
        """Return how much longer a sink is to be left alone; 0 where it may be asked."""
        return max(0.0, self._until_s.get(sink, 0.0) - now)

    def record_failure(self, sink: str, *, began: float, now: float) -> None:
        """Give a sink a rest if its failure took long."""
        took_s = now - began
        if took_s > _SLOW_FAILURE_S:
            self._until_s[sink] = now + took_s * _COOLDOWN_FACTOR


@dataclass(frozen=True, slots=True)
class SinkAttempt:
    """What one sink made of one delivery, now or before. retry_after_s: how long it asks to be left alone."""

    outcome: SinkOutcome
    dead_records: Sequence[DeadRecord] = ()
    retry_after_s: float = 0.0


class SinkWriter:
    """Writes to sinks; leaves one alone that did not answer just now.

    open_sink: returns the open sink of this name; raises SinkUnavailable or SinkRefused.
    """

    def __init__(self, open_sink: Callable[[str], Sink]) -> None:
        self._open_sink = open_sink
        self._cooldown = SinkCooldown()
        # Whether the job at hand was interrupted: then nothing more is written.
        self.has_timed_out = False

    def write(
        self, delivery: Delivery, parsed: ParsedDelivery, route: Route, finished: Mapping[str, SinkOutcome]
    ) -> Sequence[SinkAttempt]:
        """Write to each sink of the route that is not finished with the delivery."""
        batch = _build_batch(delivery, parsed)
        # A sink that has it is not written again because another one failed.
        return [
            SinkAttempt(finished[name])
            if name in finished
            else self._write_to_sink(name, batch, parsed, route)
            for name in route.sinks
        ]

    def _write_to_sink(self, name: str, batch: Batch, parsed: ParsedDelivery, route: Route) -> SinkAttempt:
        now, began = datetime.now(UTC), time.monotonic()
        unreadable = len(parsed.unreadable)
        outcome = SinkOutcome(batch.delivery_id, name, SinkOutcomeState.DONE, 0, unreadable, "", "", now)
        failing = replace(outcome, state=SinkOutcomeState.FAILING, reason=Reason.SINK_UNAVAILABLE)
        cooldown_s = self._cooldown.remaining_s(name, now=began)
        if cooldown_s or self.has_timed_out:
            message = "not asked: it, or another, did not answer just now"
            return SinkAttempt(replace(failing, message=message), retry_after_s=cooldown_s)
        try:
            written = self._open_sink(name).write(batch, route)
        except (SinkUnavailable, JobTimeout) as error:
            self.has_timed_out = isinstance(error, JobTimeout)
            self._cooldown.record_failure(name, began=began, now=time.monotonic())
            return SinkAttempt(replace(failing, message=str(error)), retry_after_s=error.retry_after_s or 0.0)
        except SinkRefused as error:
            return SinkAttempt(
                replace(
                    outcome,
                    state=SinkOutcomeState.DEAD,
                    dead=parsed.record_count,
                    reason=error.reason,
                    message=str(error),
                )
            )
        raw = parsed.read_raw_records([rejected.ordinal for rejected in written.rejected])
        dead = [
            DeadRecord(batch.delivery_id, name, r.ordinal, r.reason, r.message, raw.get(r.ordinal, ""), now)
            for r in written.rejected
        ]
        return SinkAttempt(replace(outcome, written=written.written, dead=unreadable + len(dead)), dead)


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
