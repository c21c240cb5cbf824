"""Runs are watched until they end, on every database."""

from datetime import UTC, datetime, timedelta

import pytest

from app.database.engine import Database
from app.runs import watcher
from app.runs.watcher import RunWatcher
from app.store.models import RunUpdate
from app.store.runs import Runs
from app.truto.runs import status_rank

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
# Truto fetched a record that never arrived.
RUN_WITH_A_GAP = (
    '{"id": "first", "resource_stats": {"crm/contacts": {"list": {"fetched": 1, "persisted": 1}}}}'
)


def write_run(store: Database, run_id: str, status: str, details: str = "{}") -> None:
    update = RunUpdate(
        run_id, "job", "account", "", NOW, "hook", status, datetime.now(UTC), status_rank(status), details
    )
    Runs(store).upsert(update)


def list_watched(run_watcher: RunWatcher) -> list[str]:
    run_watcher.load()
    return sorted(run.sync_job_run_id for run, _ in run_watcher.runs)


def test_a_watch_of_all_runs_drops_ended_ones_and_remembers_their_gaps(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(store, "first", "running")
    write_run(store, "second", "running")
    run_watcher = RunWatcher(store, (), None)
    assert list_watched(run_watcher) == ["first", "second"]

    write_run(store, "first", "completed", RUN_WITH_A_GAP)
    # The verdict is final, and has been for less than a minute.
    assert [list_watched(run_watcher) for _ in range(2)] == [["first", "second"]] * 2
    monkeypatch.setattr(watcher, "_SHOWN_AFTER_END", timedelta(0))

    assert list_watched(run_watcher) == ["second"]
    assert run_watcher.has_gaps
    assert not run_watcher.is_finished


def test_a_watch_of_one_run_keeps_it(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "_SHOWN_AFTER_END", timedelta(0))
    write_run(store, "first", "completed")
    run_watcher = RunWatcher(store, ("first",), None)

    assert [list_watched(run_watcher) for _ in range(3)] == [["first"]] * 3
    assert run_watcher.is_finished
