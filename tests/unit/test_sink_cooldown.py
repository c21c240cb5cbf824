"""Sinks that take long to fail are left alone for a while."""

from workers.delivery.sink_writer import SinkCooldown


def test_a_sink_that_fails_quickly_is_asked_again_at_once() -> None:
    rests = SinkCooldown()

    rests.record_failure("main", began=100, now=101)

    assert rests.remaining_s("main", now=101) == 0


def test_a_sink_that_fails_slowly_rests_in_proportion_and_alone() -> None:
    rests = SinkCooldown()

    rests.record_failure("main", began=100, now=125)

    assert rests.remaining_s("main", now=125) == 100
    assert rests.remaining_s("main", now=200) == 25
    assert rests.remaining_s("main", now=226) == 0
    assert rests.remaining_s("lake", now=125) == 0
