"""A replay is as fast as it may be, and keeps no more waiting than workers can do soon."""

from app.replay.throttle import AdaptiveWindow, RateLimit


def test_a_rate_is_kept_from_the_first_on() -> None:
    pace = RateLimit(rate=10, started_at_s=100)

    assert [pace.count_allowed(100, done) for done in (0, 1)] == [1, 0]
    assert pace.count_allowed(101, 4) == 7
    assert pace.count_allowed(101, 50) == 0
    assert (pace.compute_wait_s(100, 0), pace.compute_wait_s(100, 5), pace.compute_wait_s(101, 5)) == (
        0,
        0.5,
        0,
    )


def test_without_a_rate_nothing_waits() -> None:
    pace = RateLimit(rate=None, started_at_s=100)

    assert pace.count_allowed(100, 10**6) is None
    assert pace.compute_wait_s(100, 10**6) == 0


def test_two_seconds_of_work_may_wait_within_bounds() -> None:
    backlog = AdaptiveWindow(min_size=400, max_size=2000)

    assert backlog.compute_size(0, 0) == 400
    assert backlog.compute_size(1, 100) == 400
    assert backlog.compute_size(2, 1000) == 1000
    assert backlog.compute_size(3, 9000) == 2000
    # What was long ago does not count.
    assert backlog.compute_size(60, 9000) == 400
    assert backlog.compute_size(62, 10_000) == 1000
