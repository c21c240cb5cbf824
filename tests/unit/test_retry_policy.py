"""The retry policy: a delivery is settled, retried later, or dead."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from app.store.models import Delivery, SinkOutcome
from app.store.reasons import reason_category
from app.truto.events import Envelope
from workers.delivery.retry_policy import decide_state, retry

NOW = datetime(2026, 11, 24, tzinfo=UTC)
DELIVERY = Delivery(UUID(int=1), NOW, Envelope("e", "sync_job_run:record"), body_bytes=0, attempts=1)


def make_outcome(state: str, reason: str = "") -> SinkOutcome:
    return SinkOutcome(UUID(int=1), "main", state, 1, 0, reason, "", NOW)  # type: ignore[arg-type]  # a state


def retry_wait_s(attempts: int, min_wait_s: float = 0.0) -> float:
    change = retry(replace(DELIVERY, attempts=attempts), NOW, 1, "sink_unavailable", min_wait_s=min_wait_s)
    assert change.state == "pending"
    return (change.due_at - NOW).total_seconds()


def test_the_backoff_doubles_up_to_ten_minutes() -> None:
    for attempts in range(1, 600):
        max_wait_s = min(600.0, 2.0**attempts)
        assert all(max_wait_s / 2 <= retry_wait_s(attempts) <= max_wait_s for _ in range(20))


def test_deliveries_that_failed_together_are_retried_at_different_times() -> None:
    assert len({retry_wait_s(5) for _ in range(20)}) > 10


def test_a_retry_waits_as_long_as_the_sink_asks() -> None:
    assert retry_wait_s(1, min_wait_s=90) == 90


# One limit: a delivery that waits for a sink survives an attempt that fails for another reason.
@pytest.mark.parametrize("reason", ["internal_error", "out_of_time", "worker_outdated", "sink_unavailable"])
def test_a_delivery_is_dead_after_about_three_days(reason: str) -> None:
    change = retry(replace(DELIVERY, attempts=600), NOW, 7, reason)
    last = retry(replace(DELIVERY, attempts=599), NOW, 7, reason)

    assert (change.state, change.reason, change.records) == ("dead", reason, 7)
    assert last.state == "pending"
    # Also the shortest waits survive a weekend.
    assert sum(min(600.0, 2.0**number) / 2 for number in range(1, 600)) > 2 * 86_400


def test_one_failing_sink_causes_a_retry_and_otherwise_one_dead_sink_a_dead_delivery() -> None:
    done, failing, dead = make_outcome("done"), make_outcome("failing", "away"), make_outcome("dead", "no")

    def decide(*outcomes: SinkOutcome) -> tuple[str, str]:
        change = decide_state(DELIVERY, NOW, 1, outcomes, min_wait_s=0)
        return change.state, change.reason

    assert decide() == decide(done) == ("settled", "")
    assert decide(done, failing, dead) == ("pending", "away")
    assert decide(done, dead) == ("dead", "no")


def test_a_delivery_that_is_being_written_continues_at_once_and_uses_up_no_attempt() -> None:
    writing, failing, dead = [
        make_outcome("failing", "in_progress"),
        make_outcome("failing", "away"),
        make_outcome("dead"),
    ]

    change = decide_state(DELIVERY, NOW, 7, [failing, writing, dead], min_wait_s=90)

    assert (change.state, change.reason, change.records) == ("pending", "in_progress", 7)
    assert (change.due_at, change.is_attempt) == (NOW, False)


def test_a_delivery_that_starts_over_waits_and_uses_up_an_attempt() -> None:
    writing = make_outcome("failing", "in_progress")

    change = decide_state(DELIVERY, NOW, 7, [writing], min_wait_s=0, has_restarted=True)

    assert (change.state, change.reason, change.is_attempt) == ("pending", "worker_outdated", True)
    assert change.due_at > NOW


def test_reasons_are_sorted_into_data_sink_and_system() -> None:
    reasons = ("not_object", "no_records", "sink_unavailable", "sink_set_up", "table_taken", "worker_lost")

    assert [reason_category(reason) for reason in reasons] == [
        "data",
        "data",
        "sink",
        "sink",
        "sink",
        "system",
    ]
