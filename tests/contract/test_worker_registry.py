"""The registry of workers on both databases."""

from datetime import UTC, datetime, timedelta

from app.database.engine import Database
from app.store.worker_registry import WorkerRecord, WorkerRegistry

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
FIRST = WorkerRecord("host:aa", NOW, '{"version": "1"}', "d1")
SECOND = WorkerRecord("host:bb", NOW + timedelta(seconds=1), '{"version": "2"}', "d2")


def test_live_workers_are_listed_with_what_they_started_with(store: Database) -> None:
    registry = WorkerRegistry(store)
    registry.record_heartbeat(SECOND, now=NOW)
    registry.record_heartbeat(FIRST, now=NOW)

    assert registry.list_live(now=NOW) == [FIRST, SECOND]


def test_a_worker_without_a_heartbeat_is_dead_after_a_minute_and_known_for_an_hour(store: Database) -> None:
    registry = WorkerRegistry(store)
    registry.record_heartbeat(FIRST, now=NOW)
    later = NOW + timedelta(minutes=2)
    registry.record_heartbeat(SECOND, now=later)

    assert registry.list_live(now=later) == [SECOND]
    assert registry.list_names() == {FIRST.name, SECOND.name}

    registry.record_heartbeat(SECOND, now=later + timedelta(hours=1))
    assert registry.list_names() == {SECOND.name}


def test_a_heartbeat_renews_a_worker(store: Database) -> None:
    registry = WorkerRegistry(store)
    registry.record_heartbeat(FIRST, now=NOW)
    later = NOW + timedelta(minutes=5)
    registry.record_heartbeat(FIRST, now=later)

    assert registry.list_live(now=later) == [FIRST]


def test_a_removed_worker_is_gone(store: Database) -> None:
    registry = WorkerRegistry(store)
    registry.record_heartbeat(FIRST, now=NOW)
    registry.record_heartbeat(SECOND, now=NOW)

    registry.remove(FIRST.name)

    assert registry.list_names() == {SECOND.name}
