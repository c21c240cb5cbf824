"""A rate limit holds from the first delivery on."""

from app.replay.rate_limit import RateLimit


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
