"""A replay is as fast as it may be, and keeps no more waiting than workers can do soon."""

from app.cli.replay.pace import Backlog, Pace


def test_a_rate_is_kept_from_the_first_on() -> None:
    pace = Pace(rate=10, began_at_s=100)

    assert [pace.allows(100, done) for done in (0, 1)] == [1, 0]
    assert pace.allows(101, 4) == 7
    assert pace.allows(101, 50) == 0
    assert (pace.wait_s(100, 0), pace.wait_s(100, 5), pace.wait_s(101, 5)) == (0, 0.5, 0)


def test_without_a_rate_nothing_waits() -> None:
    pace = Pace(rate=None, began_at_s=100)

    assert pace.allows(100, 10**6) is None
    assert pace.wait_s(100, 10**6) == 0


def test_two_seconds_of_work_may_wait_within_bounds() -> None:
    backlog = Backlog(least=400, most=2000)

    assert backlog.size(0, 0) == 400
    assert backlog.size(1, 100) == 400
    assert backlog.size(2, 1000) == 1000
    assert backlog.size(3, 9000) == 2000
    # What was long ago does not count.
    assert backlog.size(60, 9000) == 400
    assert backlog.size(62, 10_000) == 1000
