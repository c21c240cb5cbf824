"""Spans of the processing of deliveries."""

from datetime import datetime

from app.store.models import Delivery, DeliveryResult, SinkOutcome, SinkOutcomeState
from app.store.reasons import Reason
from app.tracing import Span, tracing


def start_delivery_span(delivery: Delivery, *, began_at: datetime) -> Span:
    """Return the span of one attempt, linked to its job.

    It belongs to the trace of the POST, so that one trace leads to the sinks. A replay may come months later:
    it has a trace of its own, linked to the POST. A delivery without a trace belongs to the job's.
    """
    parent, links = None, []
    if delivery.traceparent:
        parent = "" if delivery.is_replay else delivery.traceparent
        links = [tracing.find_traceparent(), *([delivery.traceparent] if delivery.is_replay else [])]
    return tracing.start_span(
        "deliver",
        kind="consumer",
        parent=parent,
        links=links,
        began_at=began_at,
        delivery=str(delivery.id),
        attempt=delivery.attempts,
    )


def set_result(span: Span, result: DeliveryResult) -> None:
    """Add the result of an attempt to its span."""
    change = result.state_change
    span.set(state=change.state, reason=change.reason, records=change.records or 0)


def set_outcome(span: Span, outcome: SinkOutcome) -> None:
    """Add the outcome of a sink to the span of the attempt to write it."""
    span.set(state=outcome.state, reason=outcome.reason, written=outcome.written, dead=outcome.dead)
    if outcome.state == SinkOutcomeState.FAILING and outcome.reason != Reason.IN_PROGRESS:
        span.fail(outcome.reason)
