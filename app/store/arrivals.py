"""Stored requests by time of arrival and acknowledgement time."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.schema import arrivals

MINUTE_S, QUARTER_HOUR_S = 60, 900
_KEPT = {MINUTE_S: timedelta(hours=3), QUARTER_HOUR_S: timedelta(days=8)}
# The groups of acknowledgement times, by their largest one.
BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
# The group of all longer times.
LONGER_MS = 2**31 - 1
_GROUPS_MS = (*BOUNDS_MS, LONGER_MS)


@dataclass(frozen=True, slots=True)
class ArrivalPeriod:
    """The requests that were stored in a period. p50_ms, p99_ms: acknowledgement times; None without any."""

    start: datetime
    number: int
    p50_ms: float | None = None
    p99_ms: float | None = None


class Arrivals:
    """The arrivals at all web processes. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, numbers: Mapping[tuple[datetime, int], int], *, now: datetime) -> None:
        """Add numbers of requests by the minute of their arrival and `group_ms`; delete old ones."""
        totals: Counter[tuple[int, datetime, int]] = Counter()
        for (received_at, max_ms), number in numbers.items():
            for period_s in _KEPT:
                totals[period_s, find_period_start(received_at, period_s), max_ms] += number
        insert = insert_into(self._database.dialect.name, arrivals)
        statement = insert.on_conflict_do_update(
            index_elements=list(arrivals.primary_key),
            set_={"number": arrivals.c.number + insert.excluded.number},
        )
        # In order: two processes that update the same rows in another order would deadlock.
        rows = [
            {"period_s": period_s, "period_start": start, "max_ms": max_ms, "number": number}
            for (period_s, start, max_ms), number in sorted(totals.items())
        ]
        # One transaction: the caller adds the numbers again if a delete fails.
        with self._database.transaction() as connection:
            connection.execute(statement.values(rows))
            for period_s, kept in _KEPT.items():
                is_old = arrivals.c.period_start < now - kept
                connection.execute(delete(arrivals).where(arrivals.c.period_s == period_s, is_old))

    def list_periods(self, period_s: int, *, since: datetime, until: datetime) -> Sequence[ArrivalPeriod]:
        """Return all periods between two times, oldest first, those without a request included.

        period_s: MINUTE_S, for the last 3 hours, or QUARTER_HOUR_S, for the last 8 days.
        """
        first, last = (find_period_start(time, period_s) for time in (since, until))
        statement = select(arrivals.c.period_start, arrivals.c.max_ms, arrivals.c.number).where(
            arrivals.c.period_s == period_s, arrivals.c.period_start.between(first, last)
        )
        groups: dict[datetime, dict[int, int]] = defaultdict(dict)
        for start, max_ms, number in self._database.read(statement):
            groups[start][max_ms] = number
        step = timedelta(seconds=period_s)
        starts = [first + step * index for index in range((last - first) // step + 1)]
        return [_build_period(start, groups.get(start, {})) for start in starts]


def group_ms(duration_s: float) -> int:
    """Return the group of an acknowledgement time."""
    return _GROUPS_MS[bisect_left(BOUNDS_MS, duration_s * 1000)]


def find_period_start(time: datetime, period_s: int) -> datetime:
    """Return the start of the period that a time is in."""
    return datetime.fromtimestamp(time.timestamp() // period_s * period_s, UTC)


def estimate_quantile_ms(numbers: Mapping[int, int], quantile: float) -> float | None:
    """Return an acknowledgement time by linear interpolation in its group; None without requests.

    numbers: of requests, by `group_ms`. Times above the largest bound count as that bound.
    """
    rank = quantile * sum(numbers.values())
    if not rank:
        return None
    below = 0
    for lower_ms, upper_ms in zip((0, *BOUNDS_MS), _GROUPS_MS, strict=True):
        number = numbers.get(upper_ms, 0)
        if number and below + number >= rank:
            if upper_ms == LONGER_MS:
                break
            return lower_ms + (upper_ms - lower_ms) * (rank - below) / number
        below += number
    return float(BOUNDS_MS[-1])


def _build_period(start: datetime, numbers: Mapping[int, int]) -> ArrivalPeriod:
    p50_ms, p99_ms = (estimate_quantile_ms(numbers, quantile) for quantile in (0.5, 0.99))
    return ArrivalPeriod(start, sum(numbers.values()), p50_ms, p99_ms)
