"""The cooldown of a sink after a slow failure."""

from uuid import UUID

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


def test_one_batch_that_takes_too_long_starts_no_cooldown_however_often() -> None:
    cooldown = SinkCooldown()

    for began in (100, 200, 300):
        assert not cooldown.record_batch_timeout("main", UUID(int=1), began=began, now=began + 15)

    assert cooldown.remaining_s("main", now=315) == 0


def test_batches_of_two_deliveries_that_take_too_long_start_a_cooldown() -> None:
    cooldown = SinkCooldown()
    cooldown.record_batch_timeout("main", UUID(int=1), began=100, now=115)

    assert cooldown.record_batch_timeout("main", UUID(int=2), began=120, now=135)

    assert cooldown.remaining_s("main", now=135) == 60


def test_a_batch_that_succeeds_in_between_shows_that_the_sink_works() -> None:
    cooldown = SinkCooldown()
    cooldown.record_batch_timeout("main", UUID(int=1), began=100, now=115)
    cooldown.record_success("main")

    assert not cooldown.record_batch_timeout("main", UUID(int=2), began=120, now=135)

    assert cooldown.remaining_s("main", now=135) == 0
