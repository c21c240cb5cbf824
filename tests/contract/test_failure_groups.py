"""Groups of failures are those of a query over all failures, on every database."""

from datetime import timedelta
from uuid import UUID

import pytest

from app.database.engine import Database
from app.store import failure_groups
from app.store.bounded_count import BoundedCount
from app.store.delivery_filter import DeliveryFilter, FailureCause
from app.store.failure_groups import FailureCount, count_all_failures, count_failures
from app.store.failures import group_failures
from tests.support.seeded_store import NOW, RUN, SeededStore

EVERYTHING = DeliveryFilter()
CAUSES = [
    ("dead", "sink_unavailable", "crm/contacts"),
    ("dead", "sink_unavailable", "crm/deals"),
    ("dead", "x", ""),
    ("late", "after_stop", "crm/contacts"),
    ("quarantined", "not_json", ""),
    ("unrouted", "no_route", "hr/people"),
]


@pytest.fixture
def seeded(store: Database, store_url: str) -> SeededStore:
    """A store with one to six failures of each cause, and deliveries that did not fail."""
    seeded = SeededStore(store, store_url)
    for number, (state, reason, resource) in enumerate(CAUSES, start=1):
        for _ in range(number):
            seeded.put(state, reason, resource=resource)
    for state in ("settled", "pending", "refused"):
        seeded.put(state)
    return seeded


def read_all(
    seeded: SeededStore,
    delivery_filter: DeliveryFilter = EVERYTHING,
    *,
    limit: int = 50,
    records: bool = False,
) -> list[FailureCount]:
    """Return the groups of all pages."""
    groups: list[FailureCount] = []
    after: FailureCause | None = None
    for _ in range(30):
        page = count_failures(seeded.store, delivery_filter, of_records=records, after=after, limit=limit)
        groups += page.groups
        after = page.after
        if after is None:
            return groups
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("limit", [1, 2, 6, 50])
def test_pages_have_every_group_once_with_its_numbers(seeded: SeededStore, limit: int) -> None:
    groups = read_all(seeded, limit=limit)

    expected = {
        (group.state, group.reason, group.resource): (BoundedCount(group.number), group.oldest, group.newest)
        for group in group_failures(seeded.store, EVERYTHING)
    }
    assert [(g.cause.state, g.cause.reason, g.cause.resource) for g in groups] == CAUSES
    assert {
        (g.cause.state, g.cause.reason, g.cause.resource): (g.number, g.oldest, g.newest) for g in groups
    } == expected
    assert all(seeded.read_row(group.example)["received_at"] == group.newest for group in groups)


@pytest.mark.parametrize(
    ("delivery_filter", "numbers"),
    [
        (DeliveryFilter(states=("dead",)), [1, 2, 3]),
        (DeliveryFilter(states=("unrouted",)), [6]),
        (DeliveryFilter(states=("dead",), reason="sink_unavailable"), [1, 2]),
        (DeliveryFilter(reason="after_stop"), [4]),
        (DeliveryFilter(resource="crm/*"), [1, 2, 4]),
        (DeliveryFilter(resource="hr/people"), [6]),
        (DeliveryFilter(states=("late",), resource="hr/*"), []),
        (DeliveryFilter(reason="nothing has it"), []),
        # The six of the last cause, and one of the cause before.
        (DeliveryFilter(since=NOW + timedelta(minutes=15)), [1, 6]),
        (DeliveryFilter(since=NOW + timedelta(days=1)), []),
        (DeliveryFilter(sync_job_run_id=RUN, states=("dead",)), [1, 2, 3]),
        (DeliveryFilter(sync_job_run_id=RUN, resource="crm/*", reason="after_stop"), [4]),
        (DeliveryFilter(integrated_account_id="another"), []),
    ],
)
@pytest.mark.parametrize("limit", [1, 50])
def test_filters_choose_groups(
    seeded: SeededStore, delivery_filter: DeliveryFilter, numbers: list[int], limit: int
) -> None:
    groups = read_all(seeded, delivery_filter, limit=limit)
    assert [group.number for group in groups] == list(map(BoundedCount, numbers))


def test_a_page_reads_few_groups_and_the_next_one_continues(
    seeded: SeededStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure_groups, "_MAX_VISITED", 2)

    first = count_failures(seeded.store, DeliveryFilter(resource="hr/*"), of_records=False, limit=50)
    everything = read_all(seeded, DeliveryFilter(resource="hr/*"))

    assert first.groups == []
    assert first.after == FailureCause("dead", "sink_unavailable", "", "crm/deals")
    assert [group.number for group in everything] == [BoundedCount(6)]


def test_dead_records_are_grouped_with_their_sink_and_the_resource_of_their_delivery(
    seeded: SeededStore,
) -> None:
    seeded.put_with_dead_records(sink="main", count=3)
    seeded.put_with_dead_records(sink="", count=1)
    newest = seeded.put_with_dead_records(sink="main", reason="no_key", count=2)

    groups = read_all(seeded, records=True, limit=2)
    no_key = read_all(seeded, DeliveryFilter(reason="no_key"), records=True)
    of_run = read_all(seeded, DeliveryFilter(sync_job_run_id=RUN, reason="no_key"), records=True)

    causes = [(group.cause.reason, group.cause.sink, group.number.number) for group in groups]
    assert causes == [("no_key", "main", 2), ("too_deep", "", 1), ("too_deep", "main", 3)]
    assert {group.cause.resource for group in groups} == {"crm/contacts"}
    assert {group.cause.state for group in groups} == {"record"}
    assert [group.example for group in no_key] == [group.example for group in of_run] == [newest]


def test_counts_stop_at_their_limit(seeded: SeededStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.store.bounded_count.COUNT_LIMIT", 2)
    monkeypatch.setattr(failure_groups, "COUNT_LIMIT", 2)

    numbers = [str(group.number) for group in read_all(seeded)]
    totals = count_all_failures(seeded.store, since=None)

    assert numbers == ["1", "2", "2+", "2+", "2+", "2+"]
    assert (totals.deliveries, totals.records) == (BoundedCount(2, is_exact=False), BoundedCount(0))
    assert count_failures(
        seeded.store, DeliveryFilter(sync_job_run_id=RUN), of_records=False, limit=50
    ).is_newest_only


def test_hostile_causes_are_found_again(seeded: SeededStore) -> None:
    hostile = "crm/*%_'\"\\\n<script>"
    example: UUID = seeded.put("dead", hostile, resource=hostile)

    [group] = read_all(seeded, DeliveryFilter(reason=hostile))

    assert (group.cause, group.example) == (FailureCause("dead", hostile, "", hostile), example)
