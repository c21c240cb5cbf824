"""When a notice that an endpoint did not take is sent again; pure but for the jitter."""

import random
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_FIRST_RETRY_S = 5.0
_MAX_RETRY_S = 3600.0
_GIVE_UP_AFTER_S = 24 * 3600.0


def compute_next_attempt(
    attempts: int, *, fanned_out_at: datetime, now: datetime, min_wait_s: float = 0.0
) -> datetime | None:
    """Return when to send it again: exponentially later, with jitter. None: it has been tried for a day.

    attempts: so far. fanned_out_at: when it began. at_least_s: the endpoint's wish.
    """
    if (now - fanned_out_at).total_seconds() >= _GIVE_UP_AFTER_S:
        return None
    max_wait_s = min(_MAX_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(attempts - 1, 20))
    # Jitter, so that what failed together does not come back together.
    wait_s = max(min_wait_s, max_wait_s * random.uniform(0.8, 1.0))  # noqa: S311  # no secret
    return now + timedelta(seconds=min(wait_s, _GIVE_UP_AFTER_S))


def parse_retry_after(header: str, *, now: datetime) -> float:
    """Return what Retry-After asks for, seconds or a date, in seconds; 0 where it asks for nothing."""
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())
