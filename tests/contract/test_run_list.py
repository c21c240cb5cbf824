"""Guarantees of the lists of runs, on every database."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, update

from app.database.engine import Database, open_database
from app.store.models import RunUpdate
from app.store.run_list import Position, RunFilter, list_runs
from app.store.run_summaries import RunSummary, SummarizedRun, save_summaries
from app.store.runs import Runs
from app.store.schema import runs

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
GAPS = RunSummary(
    "incomplete", fetched=9, arrived=7, missing=2, gap_records=2, gap_reasons=(("given_up", 2),)
)


def add_run(store: Database, run_id: str, *, minute: int = 0, status: str = "completed", **ids: Any) -> None:
    columns: dict[str, Any] = {
        "sync_job_id": "job",
        "integrated_account_id": "account",
        "environment_id": "env",
    } | ids
    at = NOW + timedelta(minutes=minute)
    Runs(store).upsert(
        RunUpdate(run_id, first_seen_at=at, status=status, status_at=at, status_rank=2, **columns)
    )


def summarize(store: Database, run_id: str, summary: RunSummary) -> None:
    run = Runs(store).get(run_id)
    assert run
    with store.transaction() as connection:
        save_summaries(connection, [SummarizedRun(run_id, run.revision, NOW, summary)], now=NOW)


def list_ids(store: Database, run_filter: RunFilter, *, after: Position | None = None, limit: int = 9) -> str:
    return " ".join(
        run.sync_job_run_id for run in list_runs(store, run_filter, after=after, limit=limit).runs
    )


def test_every_run_is_on_one_page_newest_first(store: Database) -> None:
    for number in range(7):
        # Two runs for every time.
        add_run(store, f"r{number}", minute=number // 2)

    pages, position = [], None
    while True:
        page = list_runs(store, RunFilter(), after=position, limit=3)
        pages.append([run.sync_job_run_id for run in page.runs])
        position = page.next_position
        if position is None:
            break

    assert pages == [["r6", "r5", "r4"], ["r3", "r2", "r1"], ["r0"]]


def test_a_full_last_page_has_no_next_page(store: Database) -> None:
    for number in range(3):
        add_run(store, f"r{number}")

    page = list_runs(store, RunFilter(), limit=3)

    assert (len(page.runs), page.next_position, page.is_partial) == (3, None, False)


@pytest.mark.parametrize(
    ("run_filter", "ids"),
    [
        (RunFilter(), "e d c b a"),
        (RunFilter(ids=("a", "c", "x")), "c a"),
        (RunFilter(ids=()), ""),
        (RunFilter(integrated_account_id="other"), "b"),
        (RunFilter(sync_job_id="nightly"), "c"),
        (RunFilter(environment_id="test"), "d"),
        (RunFilter(webhook_id="hook"), "e"),
        (RunFilter(status="failed"), "c"),
        (RunFilter(status=""), "a"),
        (RunFilter(verdict="incomplete"), "d b"),
        (RunFilter(verdict="complete"), "e"),
        (RunFilter(verdict="incomplete", integrated_account_id="account"), "d"),
        (RunFilter(since=NOW + timedelta(minutes=3)), "e d"),
        (RunFilter(since=NOW + timedelta(minutes=1), status="completed", sync_job_id="job"), "e d b"),
        (RunFilter(sync_job_id="' OR 1=1 --"), ""),
    ],
)
def test_runs_are_found_by_every_filter(store: Database, run_filter: RunFilter, ids: str) -> None:
    add_run(store, "a", minute=0, status="")
    add_run(store, "b", minute=1, integrated_account_id="other")
    add_run(store, "c", minute=2, sync_job_id="nightly", status="failed")
    add_run(store, "d", minute=3, environment_id="test")
    add_run(store, "e", minute=4, webhook_id="hook")
    for run_id, summary in (("b", GAPS), ("d", GAPS), ("e", RunSummary("complete"))):
        summarize(store, run_id, summary)

    assert list_ids(store, run_filter) == ids


def test_a_rare_filter_searches_a_bounded_number_of_runs_and_goes_on_from_there(store: Database) -> None:
    for number in range(10):
        add_run(store, f"r{number}", minute=number, sync_job_id="rare" if number == 1 else "job")

    first = list_runs(store, RunFilter(sync_job_id="rare"), limit=5, max_searched=4)
    second = list_runs(
        store, RunFilter(sync_job_id="rare"), after=first.next_position, limit=5, max_searched=9
    )

    assert (list(first.runs), first.is_partial) == ([], True)
    assert first.next_position == (NOW + timedelta(minutes=6), "r6")
    assert ([run.sync_job_run_id for run in second.runs], second.next_position) == (["r1"], None)


@pytest.mark.parametrize("change", ["begin", "close"])
def test_changes_between_two_queries_neither_skip_nor_repeat_a_run(
    store: Database, store_url: str, change: str
) -> None:
    for number in range(12):
        add_run(store, f"r{number}", minute=number, sync_job_id="mine" if number % 2 else "job")
        summarize(store, f"r{number}", GAPS)
    other = open_database(store_url)
    closing = [f"r{number}" for number in range(0, 12, 2)]

    def change_runs(*_: object) -> None:
        if change == "begin":
            add_run(other, f"new{uuid4()}", minute=99, sync_job_id="other")
        elif closing:
            closed = update(runs).where(runs.c.sync_job_run_id.in_([closing.pop(), closing.pop()]))
            other.execute(closed.values(gap_records=0))

    run_filter = RunFilter(sync_job_id="mine", verdict="incomplete" if change == "close" else "")
    # When a query has ended.
    event.listen(store.engine, "checkin", change_runs)
    listed, position = [], None
    while page := list_runs(store, run_filter, after=position, limit=9, max_searched=3):
        listed += [run.sync_job_run_id for run in page.runs]
        position = page.next_position
        if position is None:
            break
    event.remove(store.engine, "checkin", change_runs)
    other.close()

    assert listed == ["r11", "r9", "r7", "r5", "r3", "r1"]


def test_a_listed_run_has_its_summary(store: Database) -> None:
    add_run(store, "a")
    add_run(store, "b", minute=1)
    summarize(store, "a", GAPS)

    new, summarized = list_runs(store, RunFilter(), limit=2).runs

    assert (new.summary, new.summarized_at) == (RunSummary(), None)
    assert (summarized.summary, summarized.summarized_at) == (GAPS, NOW)
