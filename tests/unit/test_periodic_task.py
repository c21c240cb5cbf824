"""The base of the background tasks."""

import threading
from functools import partial
from typing import Any

from structlog.testing import capture_logs

from app.errors import StoreUnavailable
from tests.support.waiting import wait_until
from workers.background.loop import PeriodicTask


class CountingTask(PeriodicTask):
    """Counts its runs and fails as its `errors` say."""

    def __init__(self, *errors: Exception | None) -> None:
        super().__init__("counting", interval_s=0.01)
        self.errors = list(errors)
        self.runs = 0

    def run_once(self) -> None:
        self.runs += 1
        self.run_step("count", self._count)

    def _count(self) -> None:
        error = self.errors.pop(0) if self.errors else None
        if error:
            raise error


def test_a_failing_step_is_logged_at_once_if_it_fails_differently_or_again_after_a_success() -> None:
    away = [StoreUnavailable("away") for _ in range(5)]
    task = CountingTask(away[0], away[1], ValueError("private"), away[2], None, away[3], away[4])

    with capture_logs() as logs:
        for _ in range(7):
            task.run_once()

    errors: list[Any] = [line.get("error", line["event"]) for line in logs]
    assert [error.partition(" at ")[0] for error in errors] == [
        "away",
        "ValueError",
        "away",
        "task.recovered",
        "away",
    ]
    assert "private" not in str(logs)
    assert {(line["event"], line["task"], line["step"]) for line in logs} == {
        ("task.failed", "counting", "count"),
        ("task.recovered", "counting", "count"),
    }


class SubjectTask(PeriodicTask):
    """Works on three subjects in order; the database is unavailable for some of them."""

    def __init__(self, *unavailable: str) -> None:
        super().__init__("subjects", interval_s=0.01)
        self.unavailable = {*unavailable}
        self.done: list[str] = []

    def run_once(self) -> None:
        self.run_each("subject", ((id_, partial(self._work, id_)) for id_ in "abc"))

    def _work(self, id_: str) -> None:
        if id_ in self.unavailable:
            raise StoreUnavailable("a statement exceeded its timeout")
        self.done.append(id_)


def test_subjects_whose_statements_time_out_do_not_block_the_others() -> None:
    task = SubjectTask("a", "b")

    for _ in range(3):
        task.run_once()
    assert task.done == ["c"]
    assert {step for step, _ in task.list_faults()} == {"subject a", "subject b"}
    task.unavailable = {"a"}
    task.run_once()
    task.run_once()

    assert task.done == ["c", "c", "b", "b", "c"]
    assert {step for step, _ in task.list_faults()} == {"subject a"}


def test_an_unavailable_database_ends_the_round_for_all_subjects() -> None:
    task = SubjectTask("a", "b", "c")

    task.run_once()

    assert [step for step, _ in task.list_faults()] == ["subject a"]


class VanishingStep(PeriodicTask):
    """Runs a step that fails once, as that of a run that ends."""

    def __init__(self) -> None:
        super().__init__("vanishing", interval_s=0.01)
        self.runs = 0

    def run_once(self) -> None:
        self.runs += 1
        if self.runs == 1:
            self.run_step("run 1", self._fail)

    def _fail(self) -> None:
        raise StoreUnavailable("away")


def test_a_step_that_is_no_longer_run_does_not_fail_for_ever() -> None:
    task = VanishingStep()

    with capture_logs() as logs:
        task.start()
        wait_until(lambda: task.runs > 3, what="several runs")
        task.stop()

    assert task.list_faults() == []
    assert [line["event"] for line in logs] == ["task.failed", "task.recovered"]


class AbortedStep(PeriodicTask):
    """Fails in an inner step, and in every second run before that step."""

    def __init__(self) -> None:
        super().__init__("aborted", interval_s=0.01)
        self.runs = 0

    def run_once(self) -> None:
        self.runs += 1
        self.run_step("outer", self._run_outer)

    def _run_outer(self) -> None:
        if self.runs % 2 == 0:
            raise StoreUnavailable("away")
        self.run_step("inner", self._fail)

    def _fail(self) -> None:
        raise ValueError


def test_a_step_still_fails_while_an_outer_step_aborts_before_it() -> None:
    task = AbortedStep()

    with capture_logs() as logs:
        task.start()
        wait_until(lambda: task.runs > 4, what="several runs")
        task.stop()

    assert "inner" in dict(task.list_faults())
    assert [line["event"] for line in logs if line["step"] == "inner"] == ["task.failed"]


class BrokenTask(PeriodicTask):
    """Fails outside of its steps."""

    def __init__(self) -> None:
        super().__init__("broken", interval_s=0.01)
        self.runs = 0

    def run_once(self) -> None:
        self.runs += 1
        raise ValueError


def test_a_thread_survives_every_error_until_it_is_stopped() -> None:
    task = BrokenTask()

    with capture_logs() as logs:
        task.start()
        wait_until(lambda: task.runs > 3, what="several runs")
        task.stop()
        wait_until(lambda: "broken" not in {thread.name for thread in threading.enumerate()})

    assert [line["event"] for line in logs] == ["task.failed"]
