"""Filters of deliveries, on every database."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from app.database.engine import Database
from app.store.delivery_filter import DeliveryCount, DeliveryFilter, count_deliveries, find_deliveries
from app.store.inbox import Inbox
from app.store.models import (
    DeliveryResult,
    DeliveryState,
    IncomingDelivery,
    SinkOutcome,
    SinkOutcomeState,
    StateChange,
)
from app.store.results import DeliveryResults
from app.truto.events import Envelope

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def put(store: Database, number: int, **envelope_fields: Any) -> str:
    body = b"%d" % number
    envelope = Envelope(event="sync_job_run:record", resource="crm/contacts", method="list")
    at = NOW + MINUTE * (number // 2)
    incoming = IncomingDelivery(body, hashlib.sha256(body).digest(), at, replace(envelope, **envelope_fields))
    return str(Inbox(store).put([incoming])[0].delivery_id)


@pytest.mark.parametrize("newest_first", [False, True])
def test_every_delivery_is_found_once_and_in_order_for_any_page_size(
    store: Database, *, newest_first: bool
) -> None:
    # Two deliveries for every time.
    ids = [put(store, number) for number in range(11)]

    for page in (1, 2, 3, 100):
        rows = list(find_deliveries(store, DeliveryFilter(), newest_first=newest_first, page_size=page))
        assert sorted(str(item.id) for item in rows) == sorted(ids)
        times = [item.received_at for item in rows]
        assert times == sorted(times, reverse=newest_first)


def test_finding_continues_after_a_given_delivery(store: Database) -> None:
    for number in range(7):
        put(store, number)
    first = list(islice(find_deliveries(store, DeliveryFilter(), page_size=2), 3))

    rest = list(
        find_deliveries(store, DeliveryFilter(), after=(first[-1].received_at, first[-1].id), page_size=2)
    )

    assert [*first, *rest] == list(find_deliveries(store, DeliveryFilter()))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (DeliveryFilter(sync_job_run_id="r"), [1]),
        (DeliveryFilter(resource="crm/*"), [0, 1, 2]),
        (DeliveryFilter(resource="crm/co_tacts"), []),
        (DeliveryFilter(resource="ticketing/tickets"), [3]),
        (DeliveryFilter(event="*:record"), [0, 1, 2, 3]),
        (DeliveryFilter(integrated_account_id="a", environment_id="e"), [2]),
        (DeliveryFilter(since=NOW + MINUTE), [2, 3]),
        (DeliveryFilter(until=NOW + MINUTE), [0, 1]),
        (DeliveryFilter(states=["settled", "dead"]), [0]),
        (DeliveryFilter(sink="lake"), [0]),
        (DeliveryFilter(sink="main"), []),
    ],
)
def test_every_filter_finds_only_matching_deliveries(
    store: Database, selection: DeliveryFilter, expected: list[int]
) -> None:
    ids = [
        put(store, 0),
        put(store, 1, sync_job_run_id="r"),
        put(store, 2, integrated_account_id="a", environment_id="e"),
        put(store, 3, resource="ticketing/tickets"),
    ]
    [first] = [item for item in find_deliveries(store, DeliveryFilter()) if str(item.id) == ids[0]]
    outcome = SinkOutcome(first.id, "lake", SinkOutcomeState.DONE, 3, 0, "", "", NOW)
    state_change = StateChange(first.id, DeliveryState.SETTLED, 3, "", due_at=NOW)
    DeliveryResults(store).save([DeliveryResult(state_change, outcomes=[outcome])], now=NOW)

    assert [ids.index(str(item.id)) for item in find_deliveries(store, selection)] == expected


def test_a_filter_of_ids_finds_only_those_ids(store: Database) -> None:
    put(store, 0)
    put(store, 1)
    [first, _] = find_deliveries(store, DeliveryFilter())

    assert list(find_deliveries(store, DeliveryFilter(ids=[first.id]))) == [first]


def test_deliveries_are_counted_by_resource_method_and_state(store: Database) -> None:
    for number in range(3):
        put(store, number, resource="crm/contacts" if number else "crm/deals")

    assert count_deliveries(store, DeliveryFilter()) == [
        DeliveryCount("crm/contacts", "list", "pending", 2, 0),
        DeliveryCount("crm/deals", "list", "pending", 1, 0),
    ]
    assert DeliveryFilter().is_empty
    assert not DeliveryFilter(method="list").is_empty
