"""The counts of responses on both databases."""

import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy

from app.database.engine import Database
from app.errors import StoreUnavailable
from app.store.arrivals import QUARTER_HOUR_S, Arrivals
from app.store.response_counts import ResponseCounts, find_last_stored

NOW = datetime(2026, 11, 25, 10, 4, tzinfo=UTC)
WRONG = ("unauthorized", "wrong")
ACCEPTED = ("accepted", "")


def read_numbers(store: Database, since: datetime) -> dict[tuple[str, str], int]:
    return {(count.status, count.cause): count.number for count in ResponseCounts(store).list_since(since)}


def test_numbers_are_added_by_status_and_cause(store: Database) -> None:
    counts = ResponseCounts(store)
    counts.add({WRONG: 36, ACCEPTED: 1}, now=NOW)
    counts.add({WRONG: 4}, now=NOW + timedelta(minutes=1))
    counts.add({WRONG: 2}, now=NOW + timedelta(minutes=30))

    assert read_numbers(store, NOW) == {WRONG: 42, ACCEPTED: 1}
    assert read_numbers(store, NOW + timedelta(minutes=20)) == {WRONG: 2}
    [accepted, wrong] = counts.list_since(NOW)
    assert (wrong.last_at, wrong.is_alarming_refusal) == (NOW + timedelta(minutes=30), True)
    assert find_last_stored([accepted, wrong]) == NOW
    assert find_last_stored([wrong]) is None


def test_processes_that_count_at_once_lose_nothing(store: Database) -> None:
    def add() -> None:
        for _ in range(20):
            ResponseCounts(store).add({WRONG: 1, ACCEPTED: 2}, now=NOW)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert read_numbers(store, NOW) == {WRONG: 80, ACCEPTED: 160}


def test_counts_are_deleted_after_a_week(store: Database) -> None:
    counts = ResponseCounts(store)
    counts.add({WRONG: 1}, now=NOW)
    counts.add({ACCEPTED: 1}, now=NOW + timedelta(days=7, hours=1))

    assert read_numbers(store, NOW - timedelta(days=1)) == {ACCEPTED: 1}


@pytest.mark.parametrize("table", ["response_counts", "arrivals"])
def test_numbers_are_not_added_if_the_delete_of_old_ones_fails(store: Database, table: str) -> None:
    later = NOW + timedelta(days=9)
    counts, stored = ResponseCounts(store), Arrivals(store)
    counts.add({WRONG: 1}, now=NOW)
    stored.add({(NOW, 5): 1}, now=NOW)

    def refuse(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("DELETE"):
            raise StoreUnavailable("the delete failed")

    sqlalchemy.event.listen(store.engine, "before_cursor_execute", refuse)
    for _ in range(2):
        with suppress(StoreUnavailable):
            if table == "arrivals":
                stored.add({(later, 5): 1}, now=later)
            else:
                counts.add({WRONG: 1}, now=later)
    sqlalchemy.event.remove(store.engine, "before_cursor_execute", refuse)

    assert read_numbers(store, later) == {}
    periods = stored.list_periods(QUARTER_HOUR_S, since=later, until=later)
    assert [period.number for period in periods] == [0]
