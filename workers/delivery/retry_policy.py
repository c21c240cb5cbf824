"""When a delivery is settled, tried again or dead; pure."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from app.store.models import Delivery, DeliveryState, SinkOutcome, SinkOutcomeState, StateChange

_FIRST_RETRY_DELAY_S = 2.0
_MAX_RETRY_DELAY_S = 600.0
# About a day of retries.
_MAX_ATTEMPTS = 150
# A delivery that takes its worker along each time (out of memory, a crash in a library) is given up soon.
MAX_LOST_ATTEMPTS = 3


def finish(delivery: Delivery, state: DeliveryState, records: int, reason: str = "") -> StateChange:
    """Finish with a delivery."""
    return StateChange(delivery.id, state, records, reason, due_at=delivery.received_at)


def reschedule(delivery: Delivery, now: datetime, wait_s: float) -> StateChange:
    """Leave a delivery pending, due again in `wait_s` seconds."""
    return replace(finish(delivery, DeliveryState.PENDING, 0), due_at=now + timedelta(seconds=wait_s))


def retry(
    delivery: Delivery, now: datetime, records: int, reason: str, *, min_wait_s: float = 0.0
) -> StateChange:
    """Postpone exponentially with jitter, or give up after about a day. at_least_s: the sink's wish."""
    if delivery.attempts >= _MAX_ATTEMPTS:
        return finish(delivery, DeliveryState.DEAD, records, reason)
    max_wait_s = min(_MAX_RETRY_DELAY_S, _FIRST_RETRY_DELAY_S * 2.0 ** min(delivery.attempts - 1, 20))
    # Jitter, so that what failed together does not come back together.
    wait_s = max(min_wait_s, max_wait_s * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
    return replace(reschedule(delivery, now, wait_s), records=records, reason=reason)


def decide_state(
    delivery: Delivery, now: datetime, records: int, outcomes: Sequence[SinkOutcome], *, min_wait_s: float
) -> StateChange:
    """Conclude from what each sink made of it: what fails is tried again, what never will succeed is dead."""
    states = {outcome.state: outcome.reason for outcome in outcomes}
    if SinkOutcomeState.FAILING in states:
        return retry(delivery, now, records, states[SinkOutcomeState.FAILING], min_wait_s=min_wait_s)
    if SinkOutcomeState.DEAD in states:
        return finish(delivery, DeliveryState.DEAD, records, states[SinkOutcomeState.DEAD])
    return finish(delivery, DeliveryState.SETTLED, records)
