"""The turns of the accounts: who is enqueued next, and at which cost."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.database.engine import Database
from app.store import due_statements
from app.store.due_deliveries import DueDeliveries
from app.store.inbox import Inbox
from app.store.models import DeliveryPriority, IncomingDelivery
from app.store.schema import deliveries
from app.truto.events import Envelope

NOW = datetime(2026, 11, 27, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LATER = NOW + 60 * SECOND


def put(store: Database, account: str, number: int, *, at: datetime = NOW, body: bytes = b"{}") -> None:
    """Store due deliveries of an account, a millisecond apart."""
    Inbox(store).put(
        [
            IncomingDelivery(
                body,
                b"%32d" % place,
                at + timedelta(milliseconds=place),
                Envelope(event_id=f"{account} {at} {place}", integrated_account_id=account),
                is_due=True,
            )
            for place in range(number)
        ]
    )


def lease(feeder: DueDeliveries, limit: int, *, now: datetime = LATER) -> list[str]:
    """Return the accounts of the deliveries that are enqueued next."""
    leased = feeder.lease(now=now, limit=limit, requeue_after_s=3600).deliveries
    return [delivery.envelope.integrated_account_id for delivery in leased]


def test_the_accounts_take_turns_whatever_waits_before_them(store: Database) -> None:
    put(store, "a", 50)
    put(store, "b", 3, at=NOW + SECOND)
    put(store, "", 1, at=NOW + 2 * SECOND)
    feeder = DueDeliveries(store)

    assert lease(feeder, 6) == ["", "a", "b", "a", "b", "a"]
    # The others have what is left over.
    assert lease(feeder, 4) == ["b", "a", "a", "a"]
    assert lease(feeder, 2) == ["a", "a"]
    assert len(lease(feeder, 100)) == 54 - 12


def test_an_account_keeps_the_order_of_its_deliveries(store: Database) -> None:
    put(store, "a", 20)
    put(store, "b", 20)
    feeder = DueDeliveries(store)

    leased = [
        one for _ in range(4) for one in feeder.lease(now=LATER, limit=10, requeue_after_s=60).deliveries
    ]

    for account in "ab":
        times = [one.received_at for one in leased if one.envelope.integrated_account_id == account]
        assert len(times) == 20
        assert times == sorted(times)


def test_more_accounts_than_places_have_their_turn_one_after_the_other(store: Database) -> None:
    names = [f"account {number:02}" for number in range(25)]
    for name in names:
        put(store, name, 4)
    feeder = DueDeliveries(store)

    rounds = [lease(feeder, 10) for _ in range(10)]

    leased = [account for one in rounds for account in one]
    # A round of all accounts ends before the next begins.
    for start in range(0, 100, 25):
        assert sorted(leased[start : start + 25]) == names
    assert lease(feeder, 10) == []


def test_accounts_with_nothing_due_are_passed(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        put(store, f"early {number:02}", 1, at=LATER + SECOND)
    put(store, "z", 40)
    feeder = DueDeliveries(store)
    assert lease(feeder, 8) == ["z"] * 8

    # A search ends after so many accounts. The next one goes on.
    monkeypatch.setattr(due_statements, "_MAX_PASSED_ACCOUNTS", 4)
    found = [lease(feeder, 8) for _ in range(3)]

    assert found == [["z"] * 8] * 3


def test_the_bytes_of_a_lease_are_limited_except_for_the_first(store: Database) -> None:
    put(store, "a", 5, body=b"x" * 100)
    feeder = DueDeliveries(store)

    sizes = [
        [len(lease.deliveries), lease.has_more]
        for max_bytes in (250, 10, 1000)
        for lease in [feeder.lease(now=LATER, limit=10, requeue_after_s=60, max_bytes=max_bytes)]
    ]

    assert sizes == [[2, True], [1, True], [2, False]]


def test_feeders_at_the_same_time_lease_each_delivery_once(store: Database) -> None:
    for account in "abcde":
        put(store, account, 20)
    feeders = [DueDeliveries(store) for _ in range(4)]

    def lease_all(feeder: DueDeliveries) -> list[str]:
        leased: list[str] = []
        # Another feeder may have taken all that this one chose.
        for _ in range(40):
            leased += lease(feeder, 10)
        return leased

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lease_all, feeders))

    assert Counter(account for result in results for account in result) == dict.fromkeys("abcde", 20)


def test_replayed_and_live_deliveries_have_turns_of_their_own(store: Database) -> None:
    put(store, "a", 3)
    store.execute(deliveries.update().values(priority=DeliveryPriority.REPLAYED))
    put(store, "b", 2, at=NOW + SECOND)
    feeder = DueDeliveries(store)

    assert lease(feeder, 10) == ["b", "b"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    limits=st.lists(st.integers(1, 20), min_size=1, max_size=30),
)
def test_no_account_waits_longer_than_a_round(
    store: Database, numbers: Sequence[int], limits: Iterable[int]
) -> None:
    """While an account has deliveries left, no other one gets two more than it over any time."""
    store.execute(deliveries.delete())
    left = {f"{number}": count for number, count in enumerate(numbers) if count}
    for account, count in left.items():
        put(store, account, count)
    feeder = DueDeliveries(store)
    served: Counter[str] = Counter()

    for limit in islice(limits, 30):
        leased = lease(feeder, limit)
        assert len(leased) == min(limit, sum(left.values()) - served.total())
        served.update(leased)
        waiting = [served[account] for account, count in left.items() if served[account] < count]
        if waiting:
            assert max(served.values(), default=0) - min(waiting) <= 2 + limit // max(1, len(waiting))
