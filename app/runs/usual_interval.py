"""The usual interval of a sync's runs, and the time from which the sync is late; pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from app.store.syncs import Expectation, RecentRun

_MIN_INTERVALS = 3
_INTERVAL_FACTOR = 2
_MIN_WAIT = timedelta(minutes=10)
# Runs that begin together, such as one for each resource, are one start.
_MIN_INTERVAL = timedelta(seconds=10)
# A rate-limited run continues by itself. A run without lifecycle events never reports its end.
ACTIVE_STATUSES = ("created", "running")


def find_usual_interval(starts: Iterable[datetime]) -> timedelta | None:
    """Return the median time between starts in any order; None for fewer than three intervals.

    Starts within 10 s after another one are not counted.
    """
    separate: list[datetime] = []
    for start in sorted(starts):
        if not separate or start - separate[-1] >= _MIN_INTERVAL:
            separate.append(start)
    intervals_s = [(later - earlier).total_seconds() for earlier, later in pairwise(separate)]
    return timedelta(seconds=median(intervals_s)) if len(intervals_s) >= _MIN_INTERVALS else None


def find_next_start(last_start: datetime, usual_interval_s: float) -> datetime:
    """Return the time until which the next run must start."""
    return last_start + max(timedelta(seconds=usual_interval_s * _INTERVAL_FACTOR), _MIN_WAIT)


def expect_activity(recent_runs: Sequence[RecentRun], *, stalled_after: timedelta) -> Expectation:
    """Return the time until which a sync must start its next run, or its open run must get a delivery.

    recent_runs: newest first. stalled_after: the silence after which an open run counts as stalled.
    """
    interval = find_usual_interval(run.first_seen_at for run in recent_runs)
    interval_s = None if interval is None else round(interval.total_seconds())
    newest = recent_runs[0]
    limits = []
    if interval_s is not None:
        limits.append(find_next_start(newest.first_seen_at, interval_s))
    if newest.summary.verdict == "open" and newest.status in ACTIVE_STATUSES:
        limits.append((newest.last_delivery_at or newest.first_seen_at) + stalled_after)
    return Expectation(interval_s, min(limits, default=None))
