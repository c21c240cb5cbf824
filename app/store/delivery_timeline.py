"""The life of a delivery as a timeline."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.plural import format_count
from app.store.delivery_detail import DeliveryDetail
from app.store.held import is_load_scope
from app.store.models import DeliveryAttempt, DeliveryState, SinkOutcome, SinkOutcomeState
from app.store.reasons import explain, explain_reason


class Tone(StrEnum):
    """The judgement about an entry."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True)
class DeliveryEvent:
    """One event in the life of a delivery.

    text: free of records; may be "". until: the time to which the entry refers, such as the next attempt.
    """

    at: datetime
    title: str
    text: str = ""
    tone: Tone = Tone.QUIET
    until: datetime | None = None


_TONES = {
    DeliveryState.SETTLED: Tone.OK,
    DeliveryState.DEAD: Tone.BAD,
    DeliveryState.QUARANTINED: Tone.BAD,
    DeliveryState.UNROUTED: Tone.WARN,
    DeliveryState.LATE: Tone.WARN,
    DeliveryState.REFUSED: Tone.WARN,
}
_SINK_TONES = {SinkOutcomeState.DONE: Tone.OK, SinkOutcomeState.DEAD: Tone.BAD}


def build_timeline(detail: DeliveryDetail, *, now: datetime) -> list[DeliveryEvent]:
    """Return the events of a delivery, oldest first; what is still to come is at the end."""
    # The sort keeps the order of events of the same time.
    return sorted(_list_entries(detail, now), key=lambda entry: entry.at)


def _list_entries(detail: DeliveryDetail, now: datetime) -> Iterator[DeliveryEvent]:
    delivery = detail.delivery
    if delivery.created_at:
        yield DeliveryEvent(delivery.created_at, "created at Truto")
    duplicates = (
        f"{format_count(delivery.duplicates, 'duplicate')} arrived later" if delivery.duplicates else ""
    )
    yield DeliveryEvent(delivery.received_at, "received and stored", duplicates)
    yield from map(_describe_attempt, detail.attempts)
    if detail.replayed_at:
        yield DeliveryEvent(detail.replayed_at, "requeued by a replay")
    yield from map(_describe_outcome, detail.outcomes)
    if delivery.settled_at:
        explanation = explain(delivery.state, delivery.reason)
        tone = _TONES.get(DeliveryState(delivery.state), Tone.QUIET)
        yield DeliveryEvent(delivery.settled_at, delivery.state, explanation.meaning, tone)
    if delivery.pruned_at:
        text = "" if delivery.body_bytes else "with the data of its account"
        yield DeliveryEvent(
            delivery.pruned_at, "body deleted" if delivery.body_bytes else "body erased", text
        )
    if delivery.state == DeliveryState.PENDING:
        held = [outcome for outcome in detail.outcomes if outcome.held_scope is not None]
        held_by = [outcome.sink for outcome in held if not is_load_scope(outcome.held_scope)]
        if delivery.leased_by and delivery.leased_until and delivery.leased_until > now:
            yield DeliveryEvent(now, "leased", f"by worker {delivery.leased_by}", until=delivery.leased_until)
        elif held_by:
            text = f"until {' and '.join(held_by)} accepts deliveries again"
            yield DeliveryEvent(now, "held", text, Tone.WARN)
        elif held:
            sinks = " and ".join(outcome.sink for outcome in held)
            yield DeliveryEvent(now, "waits for a load", f"of {sinks}")
        else:
            yield DeliveryEvent(max(now, delivery.due_at), "waits for the next attempt")


def _describe_attempt(attempt: DeliveryAttempt) -> DeliveryEvent:
    number = f"attempt {attempt.attempt}"
    if attempt.started_at is None:
        return DeliveryEvent(
            attempt.finished_at, f"{number}: its worker died", f"worker {attempt.worker}", Tone.WARN
        )
    took_s = (attempt.finished_at - attempt.started_at).total_seconds()
    has_failed = attempt.state == DeliveryState.PENDING
    took = f"took {took_s:.1f} s in worker {attempt.worker}"
    return DeliveryEvent(
        attempt.finished_at,
        f"{number}: {'failed' if has_failed else attempt.state}",
        "; ".join(filter(None, (explain_reason(attempt.reason), attempt.message, took))),
        Tone.WARN if has_failed else _TONES.get(attempt.state, Tone.QUIET),
        until=attempt.due_at,
    )


def _describe_outcome(outcome: SinkOutcome) -> DeliveryEvent:
    further = {"dead": outcome.dead, "filtered": outcome.filtered}
    counts = ", ".join(
        [
            f"{outcome.written:,} written",
            *(f"{number:,} {name}" for name, number in further.items() if number),
        ]
    )
    return DeliveryEvent(
        outcome.updated_at,
        f"sink {outcome.sink}: {outcome.state}",
        "; ".join(filter(None, (counts, outcome.message))),
        _SINK_TONES.get(outcome.state, Tone.WARN),
    )
