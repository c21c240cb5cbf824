"""One delivery's records to the sinks of its route, and what each made of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app.config.routes import Route
from app.errors import OutOfTime, SinkRefused, SinkUnavailable
from app.sinks.base import Batch, Record, Sink
from app.store.facts import DeadRecord, Outcome
from app.store.models import Delivery
from workers.delivery.parser import Content
from workers.delivery.rests import Rests


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one sink made of one delivery, now or before. retry_after_s: how long it asks to be left alone."""

    outcome: Outcome
    dead_records: Sequence[DeadRecord] = ()
    retry_after_s: float = 0.0


class Writer:
    """Writes to sinks; leaves one alone that did not answer just now.

    open_sink: returns the open sink of this name; raises SinkUnavailable or SinkRefused.
    """

    def __init__(self, open_sink: Callable[[str], Sink]) -> None:
        self._open_sink = open_sink
        self._rests = Rests()
        # Whether the job at hand was interrupted: then nothing more is written.
        self.is_out_of_time = False

    def write(
        self, delivery: Delivery, content: Content, route: Route, finished: Mapping[str, Outcome]
    ) -> Sequence[Attempt]:
        """Write to each sink of the route that is not finished with the delivery."""
        batch = _batch(delivery, content)
        # A sink that has it is not written again because another one failed.
        return [
            Attempt(finished[name]) if name in finished else self._attempt(name, batch, content, route)
            for name in route.sinks
        ]

    def _attempt(self, name: str, batch: Batch, content: Content, route: Route) -> Attempt:
        now, began = datetime.now(UTC), time.monotonic()
        unreadable = len(content.unreadable)
        outcome = Outcome(batch.delivery_id, name, "done", 0, unreadable, "", "", now)
        failing = replace(outcome, state="failing", reason="sink_unavailable")
        rest_s = self._rests.left_s(name, now=began)
        if rest_s or self.is_out_of_time:
            message = "not asked: it, or another, did not answer just now"
            return Attempt(replace(failing, message=message), retry_after_s=rest_s)
        try:
            written = self._open_sink(name).write(batch, route)
        except (SinkUnavailable, OutOfTime) as error:
            self.is_out_of_time = isinstance(error, OutOfTime)
            self._rests.note_failure(name, began=began, now=time.monotonic())
            return Attempt(replace(failing, message=str(error)), retry_after_s=error.retry_after_s or 0.0)
        except SinkRefused as error:
            return Attempt(
                replace(outcome, state="dead", dead=content.size, reason=error.reason, message=str(error))
            )
        raw = content.raw([refusal.ordinal for refusal in written.refused])
        dead = [
            DeadRecord(batch.delivery_id, name, r.ordinal, r.reason, r.message, raw.get(r.ordinal, ""), now)
            for r in written.refused
        ]
        return Attempt(replace(outcome, written=written.written, dead=unreadable + len(dead)), dead)


def _batch(delivery: Delivery, content: Content) -> Batch:
    return Batch(
        delivery_id=delivery.id,
        received_at=delivery.received_at,
        version=delivery.created_at or delivery.received_at,
        resource=content.resource,
        method=content.method,
        account=delivery.integrated_account_id,
        job=delivery.sync_job_id,
        run=delivery.sync_job_run_id,
        records=[Record(ordinal, value) for ordinal, value in content.records],
        is_deletion=content.is_deletion,
    )
