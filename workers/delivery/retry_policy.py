"""When a delivery is settled, tried again or dead; pure."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

from app.store.facts import Outcome
from app.store.models import Delivery, State, Verdict

_FIRST_RETRY_S = 2.0
_LONGEST_RETRY_S = 600.0
# About a day of retries.
_MOST_ATTEMPTS = 150
# A delivery that takes its worker along each time (out of memory, a crash in a library) is given up soon.
MOST_LOST_ATTEMPTS = 3


def cause_of(reason: str) -> Literal["data", "sink", "system"]:
    """Tell whose fault a reason is: what was sent, where it goes to, or this service and its machine."""
    if reason in ("worker_lost", "internal_error", "out_of_time"):
        return "system"
    return "sink" if reason.startswith(("sink_", "table_")) else "data"


def conclude(delivery: Delivery, state: State, records: int, reason: str = "") -> Verdict:
    """Finish with a delivery."""
    return Verdict(delivery.id, state, records, reason, due_at=delivery.received_at)


def postpone(delivery: Delivery, now: datetime, wait_s: float) -> Verdict:
    """Leave a delivery pending, due again in `wait_s` seconds."""
    return replace(conclude(delivery, "pending", 0), due_at=now + timedelta(seconds=wait_s))


def retry(
    delivery: Delivery, now: datetime, records: int, reason: str, *, at_least_s: float = 0.0
) -> Verdict:
    """Postpone exponentially with jitter, or give up after about a day. at_least_s: the sink's wish."""
    if delivery.attempts >= _MOST_ATTEMPTS:
        return conclude(delivery, "dead", records, reason)
    longest_s = min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(delivery.attempts - 1, 20))
    # Jitter, so that what failed together does not come back together.
    wait_s = max(at_least_s, longest_s * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
    return replace(postpone(delivery, now, wait_s), records=records, reason=reason)


def judge(
    delivery: Delivery, now: datetime, records: int, outcomes: Sequence[Outcome], *, at_least_s: float
) -> Verdict:
    """Conclude from what each sink made of it: what fails is tried again, what never will succeed is dead."""
    states = {outcome.state: outcome.reason for outcome in outcomes}
    if "failing" in states:
        return retry(delivery, now, records, states["failing"], at_least_s=at_least_s)
    if "dead" in states:
        return conclude(delivery, "dead", records, states["dead"])
    return conclude(delivery, "settled", records)
