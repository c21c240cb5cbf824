"""Arrivals, events of webhooks, totals of workers and bounded counts on both databases."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from app.database.engine import Database
from app.store import bounded_count, service_counts
from app.store.arrivals import LONGER_MS, MINUTE_S, QUARTER_HOUR_S, ArrivalPeriod, Arrivals
from app.store.bounded_count import BoundedCount
from app.store.schema import runs
from app.store.service_counts import (
    FailedDeliveries,
    IncompleteRuns,
    count_dead_records,
    count_failed_by_state,
    count_incomplete_runs,
    count_pending,
    count_runs_by_status,
    find_oldest_failed_received_at,
)
from app.store.webhook_events import WebhookEvent, WebhookEvents
from app.store.work_totals import WorkTotal, WorkTotals
from tests.support.seeded_store import SeededStore

NOW = datetime(2026, 11, 25, 10, 4, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def run_at_once(action: Callable[[int], None], *, threads: int = 4) -> None:
    running = [threading.Thread(target=action, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def test_arrivals_are_summed_by_minute_and_by_quarter_of_an_hour(store: Database) -> None:
    arrivals = Arrivals(store)
    arrivals.add({(NOW, 5): 90, (NOW, LONGER_MS): 10, (NOW - 2 * MINUTE, 5): 100}, now=NOW)
    arrivals.add({(NOW, 5): 100}, now=NOW)

    minutes = arrivals.list_periods(MINUTE_S, since=NOW - 3 * MINUTE, until=NOW)
    [quarter] = arrivals.list_periods(QUARTER_HOUR_S, since=NOW, until=NOW)

    start = NOW.replace(second=0)
    assert [(period.start, period.number) for period in minutes] == [
        (start - 3 * MINUTE, 0), (start - 2 * MINUTE, 100), (start - MINUTE, 0), (start, 200),
    ]  # fmt: skip
    assert minutes[0] == ArrivalPeriod(start - 3 * MINUTE, 0, None, None)
    assert minutes[1].p50_ms == pytest.approx(3.5)
    assert minutes[3].p99_ms == 5000
    assert (quarter.start, quarter.number) == (start.replace(minute=0), 300)


def test_web_processes_that_add_arrivals_at_once_lose_none(store: Database) -> None:
    def add(number: int) -> None:
        # In another order in each process.
        groups = (1, 2, 5, 10) if number % 2 else (10, 5, 2, 1)
        for _ in range(15):
            Arrivals(store).add({(NOW, max_ms): 1 for max_ms in groups}, now=NOW)

    run_at_once(add)

    [minute] = Arrivals(store).list_periods(MINUTE_S, since=NOW, until=NOW)
    assert minute.number == 4 * 15 * 4


def test_old_arrivals_are_deleted(store: Database) -> None:
    arrivals = Arrivals(store)
    arrivals.add({(NOW, 5): 1}, now=NOW)
    later = NOW + timedelta(hours=4)
    arrivals.add({(later, 5): 1}, now=later)

    assert sum(p.number for p in arrivals.list_periods(MINUTE_S, since=NOW, until=later)) == 1
    assert sum(p.number for p in arrivals.list_periods(QUARTER_HOUR_S, since=NOW, until=later)) == 2

    much_later = NOW + timedelta(days=9)
    arrivals.add({(much_later, 5): 1}, now=much_later)
    assert sum(p.number for p in arrivals.list_periods(QUARTER_HOUR_S, since=NOW, until=much_later)) == 1


def test_the_newest_event_of_a_webhook_never_becomes_older(store: Database) -> None:
    events = WebhookEvents(store)
    events.record({"a": NOW, "b": NOW})
    events.record({"a": NOW - MINUTE, "b": NOW + MINUTE})

    assert events.list_newest(limit=5) == [WebhookEvent("b", NOW + MINUTE), WebhookEvent("a", NOW)]
    assert events.list_newest(limit=1) == [WebhookEvent("b", NOW + MINUTE)]


def test_workers_that_add_totals_at_once_lose_none(store: Database) -> None:
    def add(number: int) -> None:
        sinks = ("lake", "main") if number % 2 else ("main", "lake")
        for _ in range(15):
            WorkTotals(store).add({(WorkTotal.RECORDS_WRITTEN, sink): 10 for sink in sinks})

    run_at_once(add)
    WorkTotals(store).add({(WorkTotal.DELIVERIES, "settled"): 3})

    assert WorkTotals(store).read() == {
        (WorkTotal.DELIVERIES, "settled"): 3,
        (WorkTotal.RECORDS_WRITTEN, "lake"): 600,
        (WorkTotal.RECORDS_WRITTEN, "main"): 600,
    }


def test_counts_stop_at_their_limit(store: Database, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded = SeededStore(store, store_url)
    for _ in range(3):
        seeded.put("pending")
    for _ in range(3):
        seeded.put("dead", "sink_unavailable")
    seeded.put("unrouted", "no_route")
    seeded.put_with_dead_records(count=4)

    by_state = {"dead": 3, "quarantined": 0, "unrouted": 1, "late": 0}
    assert count_pending(store) == BoundedCount(3)
    assert count_failed_by_state(store) == FailedDeliveries(BoundedCount(4), by_state)
    assert count_dead_records(store) == BoundedCount(4)

    monkeypatch.setattr(bounded_count, "COUNT_LIMIT", 3)
    assert count_pending(store) == BoundedCount(3)
    assert count_dead_records(store) == BoundedCount(3, is_exact=False)
    monkeypatch.setattr(bounded_count, "COUNT_LIMIT", 2)
    monkeypatch.setattr(service_counts, "COUNT_LIMIT", 2)
    # The newest ones.
    newest = {"dead": 2, "quarantined": 0, "unrouted": 1, "late": 0}
    assert count_failed_by_state(store) == FailedDeliveries(BoundedCount(2, is_exact=False), newest)


def test_incomplete_runs_of_a_period_are_counted(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"sync_job_run_id": f"r{number}", "first_seen_at": NOW - number * MINUTE, "gap_records": number}
        for number in range(5)
    ]
    store.execute(insert(runs), rows)

    assert count_incomplete_runs(store, since=NOW - 3 * MINUTE) == IncompleteRuns(BoundedCount(3), 6)
    assert count_incomplete_runs(store, since=NOW) == IncompleteRuns(BoundedCount(0), 0)
    for module in (bounded_count, service_counts):
        monkeypatch.setattr(module, "COUNT_LIMIT", 2)
    newest = IncompleteRuns(BoundedCount(2, is_exact=False), 6)
    assert count_incomplete_runs(store, since=NOW - 3 * MINUTE) == newest


def test_runs_of_a_period_are_counted_by_status(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = ["completed", "failed", "failed", "a new one", "", "running"]
    rows = [
        {"sync_job_run_id": f"r{number}", "first_seen_at": NOW - number * MINUTE, "status": status}
        for number, status in enumerate(statuses)
    ]
    store.execute(insert(runs), rows)

    counts = count_runs_by_status(store, since=NOW - 4 * MINUTE)

    assert {status: number for status, number in counts.items() if number} == {
        "completed": 1,
        "failed": 2,
        "other": 2,
    }
    assert counts["stopped"] == counts["running"] == 0
    monkeypatch.setattr(service_counts, "COUNT_LIMIT", 2)
    assert sum(count_runs_by_status(store, since=NOW - 4 * MINUTE).values()) == 2


def test_the_oldest_failed_delivery_is_that_of_any_failed_state(store: Database, store_url: str) -> None:
    seeded = SeededStore(store, store_url)
    seeded.put("settled", received_at=NOW - 9 * MINUTE)
    assert find_oldest_failed_received_at(store) is None

    seeded.put("dead", "sink_unavailable", received_at=NOW)
    seeded.put("quarantined", "invalid_json", received_at=NOW - MINUTE)

    assert find_oldest_failed_received_at(store) == NOW - MINUTE
