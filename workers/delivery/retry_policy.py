"""The retry policy: a delivery is settled, retried or dead."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from app.backoff import compute_backoff_s
from app.store.held import HELD_FOR
from app.store.models import Delivery, DeliveryState, SinkOutcome, SinkOutcomeState, StateChange
from app.store.reasons import Reason

_FIRST_RETRY_DELAY_S = 2.0
_MAX_RETRY_DELAY_S = 600.0
# Well below HELD_AFTER, whatever a sink asks for.
_MAX_WAIT_S = 1800.0
_JITTER = (0.5, 1.0)
# About three days. Only failures that may be the delivery's own count; a failing sink holds its deliveries.
_MAX_ATTEMPTS = 600
# A delivery that kills its worker each time (out of memory, a crash in a library) is dead soon.
MAX_LOST_ATTEMPTS = 3


def finish(delivery: Delivery, state: DeliveryState, records: int | None, reason: str = "") -> StateChange:
    """Return the change that gives a delivery its final state. records: as in StateChange."""
    return StateChange(delivery.id, state, records, reason, due_at=delivery.received_at)


def resume(delivery: Delivery, now: datetime, records: int | None) -> StateChange:
    """Return the change that keeps a delivery pending, due at once; it does not count as an attempt."""
    change = reschedule(delivery, now, 0.0)
    return replace(change, records=records, reason=Reason.IN_PROGRESS, is_attempt=False)


def reschedule(delivery: Delivery, now: datetime, wait_s: float) -> StateChange:
    """Return the change that keeps a delivery pending, due again in `wait_s` seconds."""
    return replace(finish(delivery, DeliveryState.PENDING, None), due_at=now + timedelta(seconds=wait_s))


def retry(
    delivery: Delivery, now: datetime, records: int | None, reason: str, *, min_wait_s: float = 0.0
) -> StateChange:
    """Reschedule a delivery with backoff; it is dead after about three days.

    min_wait_s: the wait that a sink asked for.
    """
    if delivery.attempts >= _MAX_ATTEMPTS:
        return finish(delivery, DeliveryState.DEAD, records, reason)
    backoff_s = compute_backoff_s(
        delivery.attempts, base_s=_FIRST_RETRY_DELAY_S, max_s=_MAX_RETRY_DELAY_S, jitter=_JITTER
    )
    wait_s = max(min(min_wait_s, _MAX_WAIT_S), backoff_s)
    return replace(reschedule(delivery, now, wait_s), records=records, reason=reason)


def hold(delivery: Delivery, now: datetime, records: int, reason: str) -> StateChange:
    """Return the change that holds a delivery until its sinks accept it; it does not count as an attempt."""
    change = reschedule(delivery, now, HELD_FOR.total_seconds())
    return replace(change, records=records, reason=reason, is_attempt=False)


def decide_state(
    delivery: Delivery,
    now: datetime,
    records: int,
    outcomes: Sequence[SinkOutcome],
    *,
    min_wait_s: float,
    has_restarted: bool = False,
) -> StateChange:
    """Decide a delivery's state from its sink outcomes.

    A sink that is being written is continued at once. Otherwise one failing sink causes a retry. If all
    unfinished sinks hold the delivery, it is held; or else one dead sink makes it dead. has_restarted: a sink
    gets records again that an earlier attempt wrote.
    """
    if any(outcome.reason == Reason.IN_PROGRESS for outcome in outcomes):
        if has_restarted:
            # Workers with different routes that take turns would restart it forever.
            return retry(delivery, now, records, Reason.WORKER_OUTDATED)
        return resume(delivery, now, records)
    reasons_by_state = {outcome.state: outcome.reason for outcome in outcomes}
    failing = [outcome for outcome in outcomes if outcome.state == SinkOutcomeState.FAILING]
    if retried := [outcome for outcome in failing if outcome.held_scope is None]:
        return retry(delivery, now, records, retried[-1].reason, min_wait_s=min_wait_s)
    if failing:
        reasons = [outcome.reason for outcome in failing]
        # A load ends soon: another sink is the reason to know.
        return hold(delivery, now, records, min(reasons, key=lambda reason: reason == Reason.IN_LOAD))
    if SinkOutcomeState.DEAD in reasons_by_state:
        return finish(delivery, DeliveryState.DEAD, records, reasons_by_state[SinkOutcomeState.DEAD])
    return finish(delivery, DeliveryState.SETTLED, records)
