"""Guarantees of the overview of one run, on every database."""

from datetime import timedelta
from typing import Any

import pytest

from app.database.engine import Database
from app.runs.run_overview import RunOverview, read_run_overview
from app.runs.stop_request import request_stop
from app.store.audit_log import AuditEntry, AuditLog
from app.store.models import RunUpdate
from app.store.notifications import Notification, Notifications
from app.store.run_summaries import RunSummary, SummarizedRun, save_summaries
from app.store.runs import Runs
from app.truto.runs import status_rank
from tests.support.seeded_store import NOW, RUN, SeededStore

STATS = '{"id": "r", "resource_stats": {"crm/contacts": {"list": {"fetched": 9}}}}'
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def seeded(store: Database, store_url: str) -> SeededStore:
    return SeededStore(store, store_url)


def set_status(store: Database, status: str) -> None:
    rank = status_rank(status)
    Runs(store).upsert(RunUpdate(RUN, "job", "account", "env", NOW, "hook", status, NOW, rank, STATS))


def read(store: Database, **options: Any) -> RunOverview:
    overview = read_run_overview(store, RUN, now=LATER, **options)
    assert overview
    return overview


def test_a_run_is_counted_at_the_moment_it_is_read(seeded: SeededStore) -> None:
    set_status(seeded.store, "completed")
    delivery = seeded.put_with_dead_records(count=2)

    overview = read(seeded.store)

    assert overview.reconciliation
    assert (overview.summary.verdict, overview.summary.fetched, overview.summary.arrived) == (
        "incomplete",
        9,
        7,
    )
    assert dict(overview.summary.gap_reasons) == {"unexplained": 2, "dead": 2}
    assert [group.number for group in overview.dead_records.groups] == [2]
    assert [row.id for row in overview.newest_deliveries] == [delivery]
    assert overview.may_change


def test_a_large_run_shows_its_summary_and_is_counted_on_request(seeded: SeededStore) -> None:
    set_status(seeded.store, "running")
    for _ in range(3):
        seeded.put()
    run = Runs(seeded.store).get(RUN)
    assert run
    with seeded.store.transaction() as connection:
        summary = RunSummary("open", fetched=9, arrived=1)
        save_summaries(connection, [SummarizedRun(RUN, run.revision, NOW, summary)], now=NOW)

    bounded = read(seeded.store, max_counted=2)
    counted = read(seeded.store, max_counted=2, counts_all=True)

    assert (bounded.reconciliation, bounded.summary, bounded.summarized_at) == (None, summary, NOW)
    assert bounded.is_large
    # The count would stop a web process that uses SQLite.
    is_counted = seeded.store.dialect.name == "postgresql"
    assert bool(counted.reconciliation) == counted.can_count_all == is_counted
    assert (counted.summary.arrived, counted.is_large) == (3 if is_counted else 1, True)
    assert not read(seeded.store, max_counted=3).is_large


def test_the_timeline_tells_the_life_of_a_run_in_order(seeded: SeededStore) -> None:
    set_status(seeded.store, "running")
    started = seeded.put(event="sync_job_run:started")
    for _ in range(2):
        seeded.put()
    request_stop(Runs(seeded.store), RUN)
    requested_at, sent_at = NOW + timedelta(minutes=10), NOW + timedelta(minutes=11)
    AuditLog(seeded.store).add(AuditEntry(requested_at, "dashboard", "::1", "run.stop", RUN))
    AuditLog(seeded.store).add(AuditEntry(requested_at, "dashboard", "::1", "run.stop", "another"))
    Runs(seeded.store).mark_stop_sent(RUN, now=sent_at)
    payload = {"verdict": "incomplete"}
    Notifications(seeded.store).add(Notification("run.incomplete", RUN, "c", LATER, payload))

    overview = read(seeded.store)

    assert [(entry.text, entry.at - NOW) for entry in overview.timeline] == [
        ("event sync_job_run:started received", timedelta(minutes=1)),
        ("first page received", timedelta(minutes=2)),
        ("last page received", timedelta(minutes=3)),
        ("stop requested (dashboard)", timedelta(minutes=10)),
        ("Truto accepted the stop: requested by an operator", timedelta(minutes=11)),
        ("notification run.incomplete: incomplete", timedelta(hours=1)),
    ]
    assert overview.timeline[0].delivery_id == started
    assert overview.has_whole_timeline
    assert overview.stop.state == "sent"


def test_a_run_without_deliveries_has_an_overview(store: Database) -> None:
    set_status(store, "running")

    overview = read(store)

    assert (overview.newest_deliveries, list(overview.timeline)) == ([], [])
    assert overview.stop.state == "none"


def test_an_unknown_run_has_no_overview(store: Database) -> None:
    assert read_run_overview(store, "x" * 500, now=NOW) is None
