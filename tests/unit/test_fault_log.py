"""Log entries of faults that last."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from app.logs import FaultLog


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_fault_that_lasts_is_logged_again_at_growing_intervals() -> None:
    clock = Clock()
    fault = FaultLog("task.failed", "task.recovered", clock=clock, task="t")

    with capture_logs() as logs:
        for second in range(0, 4 * 3600, 5):
            clock.now_s = float(second)
            fault.add("away")

    minutes = [line.get("failing_for_s", 0) // 60 for line in logs]
    assert minutes == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert [line.get("times", 1) for line in logs][:3] == [1, 13, 37]
    assert {(line["event"], line["task"], line["error"]) for line in logs} == {("task.failed", "t", "away")}


def test_the_end_of_a_fault_is_logged_once_and_the_next_fault_at_once() -> None:
    clock = Clock()
    fault = FaultLog("task.failed", "task.recovered", clock=clock)

    with capture_logs() as logs:
        fault.end()
        fault.add("away")
        clock.now_s = 30.0
        fault.add("away")
        fault.end()
        fault.end()
        fault.add("away")

    events: list[Any] = [(line["event"], line.get("failing_for_s"), line.get("times")) for line in logs]
    assert events == [("task.failed", None, None), ("task.recovered", 30, 2), ("task.failed", None, None)]


@pytest.mark.parametrize("logs_changes", [True, False])
def test_another_error_is_logged_at_once_if_the_caller_says_so(*, logs_changes: bool) -> None:
    clock = Clock()
    fault = FaultLog("task.failed", "task.recovered", logs_changes=logs_changes, clock=clock)

    with capture_logs() as logs:
        for second, error in ((0, "away"), (10, "full"), (20, "full"), (60, "full")):
            clock.now_s = float(second)
            fault.add(error)

    assert [(line["error"], line.get("failing_for_s")) for line in logs] == [
        ("away", None),
        *([("full", 10)] if logs_changes else []),
        ("full", 60),
    ]
