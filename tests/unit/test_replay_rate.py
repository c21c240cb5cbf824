"""A replay keeps its rate, and keeps only as many deliveries in progress as workers can settle soon."""

from app.replay.throttle import AdaptiveWindow, RateLimit


def test_a_rate_limit_holds_from_the_first_delivery() -> None:
    rate_limit = RateLimit(rate=10, started_at_s=100)

    assert [rate_limit.count_allowed(100, done) for done in (0, 1)] == [1, 0]
    assert rate_limit.count_allowed(101, 4) == 7
    assert rate_limit.count_allowed(101, 50) == 0
    assert [rate_limit.compute_wait_s(*state) for state in ((100, 0), (100, 5), (101, 5))] == [0, 0.5, 0]


def test_without_a_rate_no_delivery_waits() -> None:
    rate_limit = RateLimit(rate=None, started_at_s=100)

    assert rate_limit.count_allowed(100, 10**6) is None
    assert rate_limit.compute_wait_s(100, 10**6) == 0


def test_the_window_holds_two_seconds_of_work_within_its_bounds() -> None:
    window = AdaptiveWindow(min_size=400, max_size=2000)

    assert window.compute_size(0, 0) == 400
    assert window.compute_size(1, 100) == 400
    assert window.compute_size(2, 1000) == 1000
    assert window.compute_size(3, 9000) == 2000
    # Samples older than four seconds do not count.
    assert window.compute_size(60, 9000) == 400
    assert window.compute_size(62, 10_000) == 1000
