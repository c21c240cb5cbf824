"""The attempts that are kept: those at deliveries that were not settled at the first one."""

from datetime import datetime

from app.store.models import Delivery, DeliveryAttempt, DeliveryResult, DeliveryState, SinkOutcomeState
from app.store.reasons import Reason

# The reasons of a delivery without a failed attempt. A failing sink holds its deliveries without attempts.
_UNTRIED = ("", Reason.IN_PROGRESS, Reason.SINK_RESUMED)


def describe_attempt(
    delivery: Delivery, result: DeliveryResult, *, worker: str, started_at: datetime, finished_at: datetime
) -> DeliveryAttempt | None:
    """Return the attempt to keep; None for the normal case, a delivery settled at the first attempt.

    A hold is no attempt, nor is the part of a large delivery that one job writes. The message holds no
    record: sinks keep records out of theirs.
    """
    change = result.state_change
    is_first = delivery.reason in _UNTRIED and not delivery.lost_attempts
    if not change.is_attempt or (is_first and change.state == DeliveryState.SETTLED):
        return None
    messages = [
        f"{outcome.sink}: {outcome.message}"
        for outcome in result.outcomes
        if outcome.message and outcome.state != SinkOutcomeState.DONE
    ]
    return DeliveryAttempt(
        delivery_id=delivery.id,
        attempt=delivery.attempts,
        worker=worker,
        started_at=started_at,
        finished_at=finished_at,
        state=change.state,
        reason=change.reason,
        message="; ".join(messages),
        due_at=change.due_at if change.state == DeliveryState.PENDING else None,
    )
