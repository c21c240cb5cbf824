"""The state of the stop of a run."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from app.runs.notifications import OPERATOR_STOP_REASON, build_stop_notification
from app.runs.stop_request import RunStop, find_stop
from app.store.notifications import Notification
from app.store.runs import StoredRun
from tests.unit.test_reconciliation import run as make_run

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
OPEN: StoredRun = make_run(status="running", rank=1)
REQUESTED = replace(OPEN, stop_reason=OPERATOR_STOP_REASON)


def test_a_run_without_a_request_has_no_stop() -> None:
    assert find_stop(OPEN, []) == RunStop("none")


def test_a_requested_stop_is_sent_failed_or_done() -> None:
    failure = build_stop_notification(REQUESTED, error="answered 403", now=NOW)
    sent = replace(REQUESTED, stop_sent_at=LATER)
    stopped = replace(sent, status="stopped", status_rank=2, stopped_at=LATER)

    assert find_stop(REQUESTED, []).state == "requested"
    assert find_stop(REQUESTED, [failure]) == RunStop("failed", OPERATOR_STOP_REASON, NOW, "answered 403")
    assert find_stop(sent, [failure]) == RunStop("sent", OPERATOR_STOP_REASON, LATER)
    assert find_stop(stopped, [failure]) == RunStop("stopped", OPERATOR_STOP_REASON, LATER)


def test_a_run_that_ends_before_its_stop_needs_none() -> None:
    completed = replace(REQUESTED, status="completed", status_rank=2)

    assert find_stop(completed, []).state == "none"


def test_a_stop_by_truto_is_no_failed_request() -> None:
    by_truto = Notification("run.stopped", "r", "stopped", NOW, {"by": "truto", "is_asked": False})

    assert find_stop(REQUESTED, [by_truto]).state == "requested"
