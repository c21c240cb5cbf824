"""When a notice that an endpoint did not take is sent again; pure but for the jitter."""

import random
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_FIRST_RETRY_S = 5.0
_LONGEST_RETRY_S = 3600.0
_GIVEN_UP_AFTER_S = 24 * 3600.0


def next_attempt(
    attempts: int, *, posted_at: datetime, now: datetime, at_least_s: float = 0.0
) -> datetime | None:
    """Return when to send it again: exponentially later, with jitter. None: it has been tried for a day.

    attempts: so far. posted_at: when it began. at_least_s: the endpoint's wish.
    """
    if (now - posted_at).total_seconds() >= _GIVEN_UP_AFTER_S:
        return None
    longest_s = min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(attempts - 1, 20))
    # Jitter, so that what failed together does not come back together.
    wait_s = max(at_least_s, longest_s * random.uniform(0.8, 1.0))  # noqa: S311  # no secret
    return now + timedelta(seconds=min(wait_s, _GIVEN_UP_AFTER_S))


def retry_after_s(header: str, *, now: datetime) -> float:
    """Return what Retry-After asks for, seconds or a date, in seconds; 0 where it asks for nothing."""
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())
