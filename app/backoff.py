"""Waiting times between retries: exponential backoff and Retry-After headers."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# 2.0 ** 1024 overflows; every limit is reached long before the 20th doubling.
_MAX_DOUBLINGS = 20


def compute_backoff_s(attempt: int, *, base_s: float, max_s: float, jitter: tuple[float, float]) -> float:
    """Return the wait after a failed attempt: `base_s`, doubled with every attempt up to `max_s`.

    attempt: the number of the failed attempt, from 1. jitter: the smallest and the largest factor to multiply
    by, so that work that failed together does not return together.
    """
    wait_s = min(max_s, base_s * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
    return wait_s * random.uniform(*jitter)  # noqa: S311  # no secret


def parse_retry_after_s(header: str, *, now: datetime) -> float | None:
    """Return the wait that a Retry-After header asks for; None if it asks for none.

    header: a number of seconds, or a date; "" if the header is missing. now: aware.
    """
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    wait_s = (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds()
    return wait_s if wait_s > 0 else None
