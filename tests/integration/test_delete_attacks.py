"""Delete tracking while other work interferes: other runs, jobs and webhooks, pauses, erasures, changed tables."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from redis import Redis
from sqlalchemy import text

from app.config.routes import Route
from app.erasure import Erasure
from app.store.sink_states import SinkStates
from tests.support.synced_account import Open, SyncedAccount, opened_accounts
from workers.background.delete_marker import DeleteMarker

ROWS, LEFT = 5000, 2500
GONE = {str(number) for number in range(LEFT, ROWS)}


@pytest.fixture
def open_account(tracked_urls: tuple[str, str], redis: Redis) -> Iterator[Open]:
    with opened_accounts(*tracked_urls, redis) as open_account:
        yield open_account


@pytest.fixture
def account(open_account: Open) -> SyncedAccount:
    """An account without a share, so that half of its rows may go."""
    return open_account(max_deleted_share=1.0)


def begin_to_mark(account: SyncedAccount) -> None:
    """Bring half of the rows to the point at which they are marked next."""
    account.process(account.send_pages("first", range(ROWS), page_size=ROWS))
    account.process([account.send_end("first", ROWS)])
    account.reconcile()
    account.process(account.send_pages("second", range(LEFT), page_size=LEFT))
    account.process([account.send_end("second", LEFT)])
    account.now += timedelta(minutes=3)
    account.monitor.run_once()


def test_two_workers_mark_every_row_once(account: SyncedAccount) -> None:
    begin_to_mark(account)
    barrier = Barrier(2)

    def mark(marker: DeleteMarker) -> None:
        barrier.wait(timeout=30)
        marker.run_once()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(mark, [account.add_marker("one"), account.add_marker("two")]))

    assert account.list_deleted() == GONE
    check = account.get_check("second")
    assert (check.state, check.live_rows, check.unseen_rows, check.marked_rows) == ("done", ROWS, LEFT, LEFT)


def test_a_pause_in_the_middle_keeps_the_rest_until_it_ends(account: SyncedAccount) -> None:
    begin_to_mark(account)
    states = SinkStates(account.store)

    account.add_marker(
        "paused", lambda: states.pause("main", by="ops", reason="", now=account.now)
    ).run_once()

    assert account.find_result("second") == ("due", "sink_paused")
    assert len(account.list_deleted()) == 2000
    states.resume("main")
    account.now += timedelta(minutes=1)
    account.marker.run_once()
    assert account.list_deleted() == GONE
    assert account.get_check("second").marked_rows == LEFT


def test_an_erasure_in_the_middle_ends_the_marks_and_leaves_no_row(account: SyncedAccount) -> None:
    begin_to_mark(account)

    def erase() -> None:
        erasure = Erasure(account.store, "account", spools=[], sinks=account.sinks, on_wait=lambda _: None)
        assert not erasure.erase_data().unreached

    account.add_marker("erased", erase).run_once()
    account.reconcile()

    with account.sink_engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM crm_contacts")).scalar_one() == 0
    assert account.checks.list_newest(limit=9) == []


def test_a_run_that_starts_in_the_middle_keeps_its_own_rows(account: SyncedAccount) -> None:
    begin_to_mark(account)
    back = [*sorted(GONE)[:100], *sorted(GONE)[-100:]]

    account.add_marker("middle", lambda: account.process(account.send_pages("third", back))).run_once()

    assert account.list_deleted() == GONE - {*back}


def test_a_page_that_was_marked_and_comes_again_is_live_and_marked_by_the_next_run(
    account: SyncedAccount,
) -> None:
    account.sync("first", range(20))
    account.sync("second", range(18))
    account.sync("third", range(19))
    assert account.list_deleted() == {"19"}

    account.sync("fourth", range(18))

    assert account.list_deleted() == {"18", "19"}


def test_a_replay_of_a_page_from_before_the_marks_revives_no_row(
    account: SyncedAccount,
) -> None:
    account.sync("first", range(20))
    pages = account.send_pages("first", ["18", "19"])
    account.process(pages)
    account.now += timedelta(hours=1)
    account.sync("second", range(18))
    assert account.list_deleted() == {"18", "19"}

    account.replay(pages)

    assert account.list_deleted() == {"18", "19"}


def test_pages_that_two_webhooks_bring_hide_no_missing_page(account: SyncedAccount) -> None:
    account.sync("first", range(300))
    pages = [
        # The third page never arrives.
        *account.send_pages("second", range(200), webhook="one"),
        *account.send_pages("second", range(200), webhook="two"),
    ]
    account.process([*pages, account.send_end("second", 300)])
    account.reconcile()

    assert account.find_result("second") == ("held_back", "surplus")
    assert account.list_deleted() == set()


def test_records_that_another_webhook_sends_elsewhere_are_not_deleted(open_account: Open) -> None:
    elsewhere = Route(webhook_id="two", resource="crm/*", sinks=())
    account = open_account(before=[elsewhere], max_deleted_share=1.0)
    account.sync("first", range(20))
    pages = [
        *account.send_pages("second", range(10)),
        *account.send_pages("second", range(10, 20), webhook="two"),
    ]
    account.process([*pages, account.send_end("second", 20)])
    account.reconcile()

    assert account.find_result("second") == ("held_back", "not_written")
    assert account.list_deleted() == set()


def test_a_row_of_two_jobs_belongs_to_the_one_that_wrote_it_last(account: SyncedAccount) -> None:
    account.sync("a1", range(20), job="all")
    account.sync("b1", range(10), job="active")
    # Only the job of active records has no "9" any more.
    account.sync("b2", range(9), job="active")
    assert account.list_deleted() == {"9"}

    account.sync("a2", range(20), job="all")
    assert account.list_deleted() == set()
    account.sync("b3", range(9), job="active")

    # The other job has written it since.
    assert account.list_deleted() == set()


def test_a_changed_table_of_the_route_ends_the_check(open_account: Open) -> None:
    account = open_account(max_deleted_share=1.0, resource="crm/contacts")
    begin_to_mark(account)
    moved = open_account(max_deleted_share=1.0, resource="crm/contacts", table="people")
    moved.now = account.now

    moved.marker.run_once()

    assert account.find_result("second") == ("superseded", "not_tracked")
    assert account.list_deleted() == set()


def test_a_column_that_a_person_dropped_is_added_before_the_marks(account: SyncedAccount) -> None:
    account.sync("first", range(20))
    account.process([*account.send_pages("second", range(18)), account.send_end("second", 18)])
    drop_seen_at(account)

    account.reconcile()
    assert account.find_result("second") == ("due", "sink_unavailable")
    account.now += timedelta(minutes=1)
    account.marker.run_once()

    assert account.find_result("second") == ("done", "")
    assert account.list_deleted() == {"18", "19"}


def drop_seen_at(account: SyncedAccount) -> None:
    with account.sink_engine.begin() as connection:
        # The view shows the column.
        connection.execute(text("DROP VIEW crm_contacts_live"))
        connection.execute(text('ALTER TABLE crm_contacts DROP COLUMN "_seen_at"'))
