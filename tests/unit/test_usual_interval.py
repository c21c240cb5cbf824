"""The usual interval of runs, and the time from which a sync is late."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.runs.usual_interval import expect_activity, find_usual_interval
from app.store.run_summaries import RunSummary
from app.store.syncs import RecentRun

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
STALLED_AFTER = timedelta(minutes=30)
STARTS = st.lists(st.integers(0, 30_000_000).map(lambda seconds: NOW + timedelta(seconds=seconds)))


def make_runs(
    starts: Sequence[datetime], *, verdict: str = "complete", status: str = "completed", **fields: datetime
) -> list[RecentRun]:
    """Return runs, newest first; verdict, status and fields of the newest one."""
    newest_first = sorted(starts, reverse=True)
    runs = [
        RecentRun(f"r{n}", at, "completed", None, "", "", RunSummary("complete"))
        for n, at in enumerate(newest_first)
    ]
    first = RecentRun(
        "r", newest_first[0], status, fields.get("last_delivery_at"), "", "", RunSummary(verdict)
    )
    return [first, *runs[1:]]


def every(interval: timedelta, number: int = 5) -> list[datetime]:
    return [NOW - interval * place for place in range(number)]


def test_a_sync_is_late_after_two_usual_intervals() -> None:
    expectation = expect_activity(make_runs(every(HOUR)), stalled_after=STALLED_AFTER)

    assert expectation.usual_interval_s == 3600
    assert expectation.expected_at == NOW + 2 * HOUR


def test_runs_that_begin_together_are_one_start() -> None:
    instant = timedelta(milliseconds=300)
    burst = make_runs(every(instant, 8))
    hourly_bursts = make_runs([start - instant for start in every(HOUR)] + every(HOUR))

    assert expect_activity(burst, stalled_after=STALLED_AFTER).expected_at is None
    assert expect_activity(hourly_bursts, stalled_after=STALLED_AFTER).usual_interval_s == 3600


def test_a_sync_with_few_runs_is_never_late() -> None:
    expectation = expect_activity(make_runs(every(HOUR, 3)), stalled_after=STALLED_AFTER)

    assert (expectation.usual_interval_s, expectation.expected_at) == (None, None)


def test_one_pause_does_not_change_the_usual_interval() -> None:
    starts = [*every(HOUR), NOW - timedelta(days=9), NOW - timedelta(days=9, hours=1)]

    assert find_usual_interval(starts) == HOUR


def test_a_sync_of_short_intervals_is_late_after_ten_minutes() -> None:
    expectation = expect_activity(make_runs(every(timedelta(seconds=20))), stalled_after=STALLED_AFTER)

    assert expectation.expected_at == NOW + timedelta(minutes=10)


def test_an_open_run_without_deliveries_makes_its_sync_late() -> None:
    last_delivery_at = NOW + timedelta(minutes=5)
    runs = make_runs(every(HOUR, 1), verdict="open", status="running", last_delivery_at=last_delivery_at)

    assert expect_activity(runs, stalled_after=STALLED_AFTER).expected_at == last_delivery_at + STALLED_AFTER


def test_a_rate_limited_run_is_not_stalled() -> None:
    runs = make_runs(every(HOUR, 1), verdict="open", status="rate_limited")

    assert expect_activity(runs, stalled_after=STALLED_AFTER).expected_at is None


@given(starts=STARTS, data=st.data())
def test_order_and_duplicates_do_not_change_the_interval(starts: list[datetime], data: st.DataObject) -> None:
    duplicates = data.draw(st.lists(st.sampled_from(starts))) if starts else []
    shuffled = data.draw(st.permutations([*starts, *duplicates]))

    assert find_usual_interval(shuffled) == find_usual_interval(starts)


@given(
    gaps_s=st.lists(st.integers(600, 100_000), min_size=3, max_size=19),
    skews_s=st.lists(st.integers(-120, 120), min_size=20, max_size=20),
)
def test_clock_skew_changes_the_interval_by_twice_the_skew_at_most(
    gaps_s: list[int], skews_s: list[int]
) -> None:
    starts = [NOW]
    for gap_s in gaps_s:
        starts.append(starts[-1] + timedelta(seconds=gap_s))
    skewed = [at + timedelta(seconds=skew_s) for at, skew_s in zip(starts, skews_s, strict=False)]

    exact, observed = find_usual_interval(starts), find_usual_interval(skewed)

    assert exact is not None
    assert observed is not None
    assert abs(exact - observed) <= timedelta(seconds=240)


@given(starts=STARTS.filter(bool))
def test_a_sync_is_never_late_within_ten_minutes_of_a_start(starts: list[datetime]) -> None:
    expected_at = expect_activity(make_runs(starts), stalled_after=STALLED_AFTER).expected_at

    assert expected_at is None or expected_at >= max(starts) + timedelta(minutes=10)
