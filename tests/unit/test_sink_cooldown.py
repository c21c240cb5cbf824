"""The cooldown of a sink after a slow failure."""

from workers.delivery.sink_writer import SinkCooldown


def test_a_fast_failure_starts_no_cooldown() -> None:
    cooldown = SinkCooldown()

    cooldown.record_failure("main", began=100, now=101)

    assert cooldown.remaining_s("main", now=101) == 0


def test_a_pause_of_the_process_does_not_prolong_the_cooldown() -> None:
    cooldown = SinkCooldown()

    cooldown.record_failure("main", began=100, now=4000)

    assert cooldown.remaining_s("main", now=4000) == 100


def test_a_slow_failure_starts_a_proportional_cooldown_of_that_sink_alone() -> None:
    cooldown = SinkCooldown()

    cooldown.record_failure("main", began=100, now=125)

    assert cooldown.remaining_s("main", now=125) == 100
    assert cooldown.remaining_s("main", now=200) == 25
    assert cooldown.remaining_s("main", now=226) == 0
    assert cooldown.remaining_s("lake", now=125) == 0
