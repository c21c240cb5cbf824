"""Guarantees of the store about the details of one run, on every database."""

from datetime import timedelta

import pytest

from app.database.engine import Database
from app.store.bounded_count import BoundedCount
from app.store.models import DeliveryResult, DeliveryState, StateChange, StoredRecordError
from app.store.results import DeliveryResults
from app.store.run_detail import (
    count_run_deliveries,
    group_dead_records,
    group_record_errors,
    list_newest_deliveries,
    read_run_events,
)
from tests.support.seeded_store import NOW, RUN, SeededStore


@pytest.fixture
def seeded(store: Database, store_url: str) -> SeededStore:
    return SeededStore(store, store_url)


def add_errors(seeded: SeededStore, *errors: tuple[int | None, str], run: str = RUN) -> None:
    """Add a delivery with record errors, as a worker does. errors: pairs of status and message."""
    delivery = seeded.put("pending", event="sync_job_run:record_error", sync_job_run_id=run)
    rows = [
        StoredRecordError(delivery, ordinal, run, "crm/contacts", "list", status, message, "{}")
        for ordinal, (status, message) in enumerate(errors)
    ]
    change = StateChange(delivery, DeliveryState.SETTLED, 0, "", due_at=NOW)
    DeliveryResults(seeded.store).save([DeliveryResult(change, record_errors=rows)], now=NOW)


def test_the_events_of_a_run_are_read_in_order_with_the_times_of_its_pages(seeded: SeededStore) -> None:
    for event in ("started", "record", "record_error", "record", "completed"):
        seeded.put(event=f"sync_job_run:{event}")
    seeded.put(event="sync_job_run:started", sync_job_run_id="another")

    run = read_run_events(seeded.store, RUN)

    assert [event.event for event in run.events] == ["sync_job_run:started", "sync_job_run:completed"]
    assert [event.received_at for event in run.events] == [NOW + timedelta(minutes=n) for n in (1, 5)]
    assert (run.first_page_at, run.last_page_at) == (NOW + timedelta(minutes=2), NOW + timedelta(minutes=4))
    assert run.is_complete


def test_the_first_and_last_events_of_a_large_run_are_read(seeded: SeededStore) -> None:
    for event in ("started", *["record"] * 3, "updated", *["record"] * 3, "completed"):
        seeded.put(event=f"sync_job_run:{event}")

    bounded = read_run_events(seeded.store, RUN, window=2)
    whole = read_run_events(seeded.store, RUN, window=5)

    assert [event.event for event in bounded.events] == ["sync_job_run:started", "sync_job_run:completed"]
    assert not bounded.is_complete
    assert (len(whole.events), whole.is_complete) == (3, True)


def test_the_number_of_events_of_a_run_is_bounded(seeded: SeededStore) -> None:
    for _ in range(60):
        seeded.put(event="sync_job_run:updated")

    run = read_run_events(seeded.store, RUN)

    assert (len(run.events), run.is_complete) == (50, False)
    assert run.events[-1].received_at == NOW + timedelta(minutes=60)


def test_the_deliveries_of_a_run_are_counted_up_to_a_limit(seeded: SeededStore) -> None:
    for _ in range(3):
        seeded.put()
    seeded.put(sync_job_run_id="another")

    assert [count_run_deliveries(seeded.store, RUN, limit=limit) for limit in (2, 3, 9)] == [2, 3, 3]


def test_the_newest_deliveries_of_a_run_come_first(seeded: SeededStore) -> None:
    ids = [seeded.put(records=number) for number in range(4)]
    seeded.put(sync_job_run_id="another")

    newest = list_newest_deliveries(seeded.store, RUN, limit=2)

    assert [(row.id, row.records) for row in newest] == [(ids[3], 3), (ids[2], 2)]


def test_record_errors_are_grouped_by_message_and_counted_up_to_a_limit(seeded: SeededStore) -> None:
    add_errors(seeded, (429, "slow down"), (429, "slow down"), (403, "slow down"), (None, ""))
    add_errors(seeded, (429, "slow down"))
    add_errors(seeded, (500, "of another run"), run="another")

    errors = group_record_errors(seeded.store, RUN)
    bounded = group_record_errors(seeded.store, RUN, limit=2)

    largest = errors.groups[0]
    assert (largest.remote_status, largest.message, largest.number) == (429, "slow down", 3)
    assert sorted(group.number for group in errors.groups) == [1, 1, 3]
    assert (errors.number, errors.number_in_other_groups) == (BoundedCount(5), 0)
    assert bounded.number == BoundedCount(2, is_exact=False)
    assert group_record_errors(seeded.store, RUN, limit=5).number.is_exact


def test_record_errors_beyond_the_largest_groups_are_counted(seeded: SeededStore) -> None:
    add_errors(seeded, *[(500, f"record {number}") for number in range(60)], (500, "record 7"))

    errors = group_record_errors(seeded.store, RUN)

    assert (errors.groups[0].message, errors.groups[0].number) == ("record 7", 2)
    assert (len(errors.groups), errors.number, errors.number_in_other_groups) == (50, BoundedCount(61), 10)


def test_a_long_message_is_cut_before_it_leaves_the_database(seeded: SeededStore) -> None:
    add_errors(seeded, (500, "x" * 1_000_000))

    [group] = group_record_errors(seeded.store, RUN).groups

    assert group.message == "x" * 300


def test_dead_records_are_grouped_by_sink_and_reason(seeded: SeededStore) -> None:
    first = seeded.put_with_dead_records(count=2)
    second = seeded.put_with_dead_records("", "not_json", count=1)
    third = seeded.put_with_dead_records(count=1)

    dead = group_dead_records(seeded.store, RUN)

    assert [(group.sink, group.reason, group.number, group.discarded) for group in dead.groups] == [
        ("main", "too_deep", 3, 0),
        ("", "not_json", 1, 0),
    ]
    assert dead.groups[0].example in (first, third)
    assert dead.groups[1].example == second
    assert dead.number == BoundedCount(4)
    assert group_dead_records(seeded.store, RUN, limit=4).number.is_exact
    assert group_dead_records(seeded.store, RUN, limit=3).number == BoundedCount(3, is_exact=False)


def test_an_unknown_run_has_no_details(seeded: SeededStore) -> None:
    seeded.put_with_dead_records()

    assert read_run_events(seeded.store, "another").events == []
    assert group_record_errors(seeded.store, "another").number == BoundedCount(0)
    assert group_dead_records(seeded.store, "another").number == BoundedCount(0)
