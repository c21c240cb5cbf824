"""Full syncs of 100,000 rows of which 1,000 vanish: exactly these are deleted, in both orders of arrival.

A second resource of each run loses rows too, and has a record error: none of its rows is deleted.
"""

from collections.abc import Sequence
from random import Random
from uuid import UUID

import pytest
from redis import Redis

from tests.support.synced_account import SyncedAccount, opened_accounts

PAGE_SIZE = 5_000
CONTACTS, DEALS = range(100_000), range(10_000)
GONE = Random(7).sample(CONTACTS, 2_000)


def send_end(account: SyncedAccount, run: str, contacts: Sequence[int], deals: Sequence[int]) -> UUID:
    fetched = {"crm/contacts": len(contacts), "crm/deals": len(deals)}
    stats = {name: {"list": {"fetched": n, "persisted": n}} for name, n in fetched.items()}
    return account.send_end(run, len(contacts), resource_stats=stats)


def send_pages(account: SyncedAccount, run: str, contacts: Sequence[int], deals: Sequence[int]) -> list[UUID]:
    pages = account.send_pages(run, deals, page_size=PAGE_SIZE, resource="crm/deals")
    return [*pages, *account.send_pages(run, contacts, page_size=PAGE_SIZE)]


def process(account: SyncedAccount, deliveries: Sequence[UUID]) -> None:
    for delivery in deliveries:
        account.process([delivery])
    account.reconcile()


# MariaDB takes 20 s; another test covers it with 5,000 rows.
@pytest.mark.parametrize("tracked_urls", ["sqlite", "postgresql"], indirect=True)
def test_exactly_the_rows_that_vanished_of_a_large_sync_are_deleted(
    tracked_urls: tuple[str, str], redis: Redis
) -> None:
    with opened_accounts(*tracked_urls, redis) as open_account:
        account = open_account()
        pages = send_pages(account, "first", CONTACTS, DEALS)
        process(account, [*pages, send_end(account, "first", CONTACTS, DEALS)])

        # Received in reverse, and processed in another order.
        gone = {*GONE[:1_000]}
        left = [number for number in reversed(CONTACTS) if number not in gone]
        pages = send_pages(account, "second", left, DEALS[100:])
        error = account.send_error("second", "crm/deals")
        process(account, [*reversed(pages), error, send_end(account, "second", left, DEALS[100:])])
        assert_deleted(account, "second", gone)

        # The lifecycle event arrives before the pages, and is processed before them.
        left = [number for number in CONTACTS if number not in {*GONE}]
        end = send_end(account, "third", left, DEALS[100:])
        error = account.send_error("third", "crm/deals")
        process(account, [error, end, *send_pages(account, "third", left, DEALS[100:])])
        assert_deleted(account, "third", {*GONE})


def assert_deleted(account: SyncedAccount, run: str, contacts: set[int]) -> None:
    results = {
        check.resource: (str(check.state), str(check.reason), check.marked_rows)
        for check in account.checks.list_of_run(run, limit=9)
    }
    assert results == {
        "crm/contacts": ("done", "", 1_000),
        "crm/deals": ("held_back", "record_errors", None),
    }
    assert account.list_deleted() == {str(number) for number in contacts}
    assert account.list_deleted(table="crm_deals") == set()
