"""The search of deliveries reads a bounded number of rows and misses no match, on every database."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from app.database.engine import Database, open_database
from app.store.bounded_count import BoundedCount
from app.store.delivery_filter import DeliveryFilter, find_deliveries
from app.store.delivery_search import DeliveryPage, count_matches, search_deliveries
from app.store.schema import deliveries
from tests.support.seeded_store import NOW, SeededStore

STATES = ("settled", "dead", "late", "pending", "quarantined")
ACCOUNTS, RUNS, RESOURCES = ("a", "b", ""), ("r", "s"), ("crm/contacts", "crm/deals")
NEVER = DeliveryFilter(event="no:such:event")
FILTERS = (
    DeliveryFilter(),
    DeliveryFilter(integrated_account_id="a"),
    DeliveryFilter(integrated_account_id="a", states=["dead"]),
    DeliveryFilter(integrated_account_id="b", states=["dead", "settled"]),
    DeliveryFilter(sync_job_run_id="s", integrated_account_id="a"),
    DeliveryFilter(sync_job_run_id="r", states=["late"], resource="crm/d*"),
    DeliveryFilter(states=["dead", "late"]),
    DeliveryFilter(states=["dead"], reason="sink_unavailable", resource="crm/deals"),
    DeliveryFilter(states=["pending"], method="list"),
    DeliveryFilter(resource="crm/deals"),
    DeliveryFilter(since=NOW, until=NOW + timedelta(minutes=30), states=["settled"]),
    DeliveryFilter(sink="lake"),
    NEVER,
)
# The index that answers a filter, or the beginning of its name. SQLite reads partial indexes only if no other one has the right order.
INDEXES = {
    "received": DeliveryFilter(),
    "of_account": DeliveryFilter(integrated_account_id="a", resource="crm/deals"),
    "of_run": DeliveryFilter(sync_job_run_id="r", integrated_account_id="a"),
    "failed": DeliveryFilter(states=["dead", "late"], event="x"),
    "unsettled": DeliveryFilter(states=["pending"], method="list"),
}


@pytest.fixture
def seeded(store: Database) -> SeededStore:
    seeded = SeededStore(store, "")
    for state, account, run, resource in product(STATES, ACCOUNTS, RUNS, RESOURCES):
        reason = {"dead": "sink_unavailable", "quarantined": "not_json"}.get(state, "")
        ids: dict[str, Any] = {"integrated_account_id": account, "sync_job_run_id": run, "resource": resource}
        seeded.put(state, reason, **ids)
    return seeded


def read_pages(
    seeded: SeededStore, delivery_filter: DeliveryFilter, *, page_size: int, chunk_rows: int
) -> Iterator[DeliveryPage]:
    """Yield the pages of a search until its end."""
    after = None
    while True:
        page = search_deliveries(
            seeded.store, delivery_filter, after=after, page_size=page_size, chunk_rows=chunk_rows
        )
        yield page
        assert page.next != after or after is None
        if page.next is None:
            return
        after = page.next


def test_pages_of_any_size_hold_every_match_once_and_newest_first(seeded: SeededStore) -> None:
    for delivery_filter in FILTERS:
        expected = list(find_deliveries(seeded.store, delivery_filter, newest_first=True))
        for page_size, chunk_rows in ((3, 7), (7, 3), (50, 1000)):
            pages = list(read_pages(seeded, delivery_filter, page_size=page_size, chunk_rows=chunk_rows))
            assert [delivery for page in pages for delivery in page.deliveries] == expected, delivery_filter
            assert all(len(page.deliveries) == page_size for page in pages[:-1] if not page.is_cut)
            assert not pages[-1].is_cut
        assert count_matches(seeded.store, delivery_filter) == BoundedCount(len(expected), is_exact=True)


def test_a_search_without_a_match_ends_early_and_returns_its_position(seeded: SeededStore) -> None:
    page = search_deliveries(seeded.store, NEVER, page_size=5, chunk_rows=2)

    every = list(find_deliveries(seeded.store, DeliveryFilter(), newest_first=True))
    assert page.deliveries == []
    assert page.is_cut
    assert page.next in [(delivery.received_at, delivery.id) for delivery in every[:20]]


def test_a_count_stops_after_a_number_of_rows(seeded: SeededStore) -> None:
    number = len(list(find_deliveries(seeded.store, DeliveryFilter())))

    assert count_matches(seeded.store, DeliveryFilter(), max_rows=10) == BoundedCount(10, is_exact=False)
    assert count_matches(seeded.store, DeliveryFilter(), max_rows=number) == BoundedCount(
        number, is_exact=True
    )
    assert count_matches(seeded.store, NEVER, max_rows=10) == BoundedCount(0, is_exact=False)


def test_deliveries_received_at_one_time_are_all_found(store: Database) -> None:
    seeded = SeededStore(store, "")
    ids = {seeded.put("settled", received_at=NOW) for _ in range(9)}

    pages = list(read_pages(seeded, DeliveryFilter(), page_size=2, chunk_rows=3))

    found: list[UUID] = [delivery.id for page in pages for delivery in page.deliveries]
    assert (len(found), {*found}) == (9, ids)


@pytest.mark.parametrize("change", ["arrive", "settle"])
def test_changes_between_two_queries_neither_skip_nor_repeat_a_match(
    store: Database, store_url: str, change: str
) -> None:
    seeded = SeededStore(store, "")
    ids = [seeded.put("pending", received_at=NOW + timedelta(seconds=second)) for second in range(24)]
    staying, leaving = {*ids[::2]}, ids[1::2]
    other = SeededStore(open_database(store_url), "")

    def change_deliveries(*_: object) -> None:
        if change == "arrive":
            other.put("pending", received_at=NOW + timedelta(hours=1))
        elif leaving:
            settled = deliveries.update().where(deliveries.c.id == leaving.pop())
            other.store.execute(settled.values(state="settled", settled_at=NOW))

    # When a query has ended.
    event.listen(store.engine, "checkin", change_deliveries)
    pages = read_pages(seeded, DeliveryFilter(states=["pending"]), page_size=9, chunk_rows=3)
    found = [delivery.id for page in pages for delivery in page.deliveries]
    event.remove(store.engine, "checkin", change_deliveries)
    other.store.close()

    assert staying <= {*found}
    assert len(found) == len({*found})


def test_every_search_is_answered_by_an_index_and_reads_no_body(seeded: SeededStore) -> None:
    for index, delivery_filter in INDEXES.items():
        if seeded.store.dialect.name == "sqlite" and index in ("failed", "unsettled"):
            index = "received"  # noqa: PLW2901  # see INDEXES
        with recorded_selects(seeded.store) as statements:
            search_deliveries(seeded.store, delivery_filter, page_size=5)
            count_matches(seeded.store, delivery_filter)
        assert len(statements) >= 2
        for statement, parameters in statements:
            assert f"{deliveries.name}.body," not in statement
            assert f"rapidbridge_deliveries_{index}" in explain(seeded.store, statement, parameters)


@contextmanager
def recorded_selects(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Collect the queries that are executed, with their parameters."""
    statements: list[tuple[str, Any]] = []

    def add(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith("SELECT"):
            statements.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", add)
    yield statements
    event.remove(database.engine, "before_cursor_execute", add)


def explain(database: Database, statement: str, parameters: Any) -> str:
    """Return the plan of a query on a table that is too large to be read completely."""
    is_postgresql = database.dialect.name == "postgresql"
    with database.engine.begin() as connection:
        for plan in ("seqscan", "bitmapscan") if is_postgresql else ():
            connection.exec_driver_sql(f"SET LOCAL enable_{plan} = off")
        command = "EXPLAIN" if is_postgresql else "EXPLAIN QUERY PLAN"
        lines = connection.exec_driver_sql(f"{command} {statement}", parameters).all()
    return "\n".join(str(line[-1]) for line in lines)
