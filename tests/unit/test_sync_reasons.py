"""The reason of a sync's state, in words."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.runs.gap_reasons import explain_gap
from app.runs.reconciliation import GapReason
from app.runs.sync_reasons import explain_state
from app.store.accounts import Sync, SyncState
from app.store.run_summaries import RunSummary

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
COMPLETE = Sync(
    "account", "job", "env", "hook", NOW - HOUR, "run", NOW - HOUR, "completed", 5, 0, 3600, NOW + HOUR, NOW,
    SyncState.COMPLETE, RunSummary("complete"),
)  # fmt: skip


def make_sync(state: str, *, verdict: str = "complete", summary: Any = None, **fields: Any) -> Sync:
    return replace(COMPLETE, state=SyncState(state), summary=RunSummary(verdict, **(summary or {})), **fields)


@pytest.mark.parametrize(
    ("sync", "reason"),
    [
        (COMPLETE, ""),
        (make_sync("complete", incomplete_runs=2), "2 of the last 5 runs incomplete"),
        (make_sync("late", last_run_at=NOW - 3 * HOUR), "no new run for 3 h, usually every 1 h"),
        (
            make_sync(
                "late", verdict="open", usual_interval_s=None, newest_record_at=NOW - timedelta(minutes=40)
            ),
            "the open run has had no records for 40 min",
        ),
        (
            make_sync("unknown", verdict="unknown"),
            "the last run's events have no count, and Truto's API has sent none: run rapidbridge doctor",
        ),
        (
            make_sync("unknown", verdict="refused"),
            "all recent runs were refused at their start",
        ),
        (make_sync("open", verdict="open", status="running"), "in progress"),
        (make_sync("open", verdict="open", status="rate_limited"), "waits for a rate limit"),
        (
            make_sync("open", verdict="settling", summary={"pending_deliveries": 2}, incomplete_runs=1),
            "2 deliveries pending; 1 of the last 5 runs incomplete",
        ),
        (make_sync("open", verdict="settling"), "records may still arrive"),
        (
            make_sync(
                "open",
                verdict="settling",
                summary={"pending_deliveries": 1, "gap_reasons": (("held", 3),)},
            ),
            "1 delivery pending; 3 held: a sink is paused or fails, and gets them afterwards",
        ),
        (make_sync("failed", status="failed"), "the last run failed at Truto"),
        (
            make_sync("failed", status="failed", summary={"record_errors": 40}, incomplete_runs=1),
            "the last run failed at Truto, with 40 record errors; 1 of the last 5 runs incomplete",
        ),
        (make_sync("stopped", status="stopped"), "the last run was stopped before its end"),
        (
            make_sync("late", status="failed", last_run_at=NOW - 3 * HOUR),
            "no new run for 3 h, usually every 1 h; the last run failed at Truto",
        ),
        (
            make_sync("late", last_run_at=NOW - 3 * HOUR, usual_interval_s=0),
            "no new run for 3 h, usually every 0 s",
        ),
    ],
)
def test_every_state_has_its_reason(sync: Sync, reason: str) -> None:
    assert explain_state(sync, now=NOW) == reason


def test_an_incomplete_sync_names_its_largest_gap() -> None:
    one = make_sync("incomplete", summary={"gap_records": 120, "gap_reasons": (("given_up", 120),)})
    several = make_sync(
        "incomplete", summary={"gap_records": 9, "gap_reasons": (("dead", 8), ("late", 1), ("unrouted", 0))}
    )

    assert explain_state(one, now=NOW) == explain_gap(GapReason("given_up", 120))
    assert explain_state(several, now=NOW) == explain_gap(GapReason("dead", 8)) + "; 2 other reasons"


def test_an_incomplete_sync_also_names_the_failure_of_its_run() -> None:
    summary = {"gap_records": 2, "gap_reasons": (("given_up", 2),), "record_errors": 1}
    sync = make_sync("incomplete", status="failed", summary=summary)

    assert explain_state(sync, now=NOW).endswith("; the last run failed at Truto, with 1 record error")


def test_an_unknown_number_is_no_number() -> None:
    sync = make_sync("incomplete", summary={"gap_records": 1, "gap_reasons": (("quarantined", None),)})

    assert explain_state(sync, now=NOW).startswith("an unknown number")
