"""When a delivery is tried again, and when it is given up."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from app.store.models import Delivery, SinkOutcome
from app.store.reasons import reason_category
from app.truto.events import Envelope
from workers.delivery.retry_policy import decide_state, retry

NOW = datetime(2026, 11, 24, tzinfo=UTC)
DELIVERY = Delivery(UUID(int=1), NOW, Envelope("e", "sync_job_run:record"), body_bytes=0, attempts=1)


def outcome(state: str, reason: str = "") -> SinkOutcome:
    return SinkOutcome(UUID(int=1), "main", state, 1, 0, reason, "", NOW)  # type: ignore[arg-type]  # a state


def wait_s(attempts: int, at_least_s: float = 0.0) -> float:
    verdict = retry(replace(DELIVERY, attempts=attempts), NOW, 1, "sink_unavailable", min_wait_s=at_least_s)
    assert verdict.state == "pending"
    return (verdict.due_at - NOW).total_seconds()


def test_retries_come_later_and_later_but_never_very_late() -> None:
    for attempts in range(1, 150):
        longest = min(600.0, 2.0**attempts)
        assert all(longest / 2 <= wait_s(attempts) <= longest for _ in range(20))


def test_retries_do_not_come_together() -> None:
    assert len({wait_s(5) for _ in range(20)}) > 10


def test_a_sink_that_names_a_time_is_left_alone_until_then() -> None:
    assert wait_s(1, at_least_s=90) == 90


def test_after_about_a_day_a_delivery_is_dead() -> None:
    verdict = retry(replace(DELIVERY, attempts=150), NOW, 7, "sink_unavailable")

    assert (verdict.state, verdict.reason, verdict.records) == ("dead", "sink_unavailable", 7)


def test_one_failing_sink_is_enough_to_try_again_and_one_dead_to_end_it() -> None:
    done, failing, dead = outcome("done"), outcome("failing", "away"), outcome("dead", "no")

    def state(*outcomes: SinkOutcome) -> tuple[str, str]:
        verdict = decide_state(DELIVERY, NOW, 1, outcomes, min_wait_s=0)
        return verdict.state, verdict.reason

    assert state() == state(done) == ("settled", "")
    assert state(done, failing, dead) == ("pending", "away")
    assert state(done, dead) == ("dead", "no")


def test_faults_of_data_sinks_and_the_service_itself_are_told_apart() -> None:
    reasons = ("not_object", "no_records", "sink_unavailable", "sink_set_up", "table_taken", "worker_lost")

    assert [reason_category(reason) for reason in reasons] == [
        "data",
        "data",
        "sink",
        "sink",
        "sink",
        "system",
    ]
