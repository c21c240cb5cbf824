"""Delete tracking: a complete run marks the rows that it did not see, and no others."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from redis import Redis

from app.store.delete_checks import DeleteChecks
from app.store.notifications import Notifications
from app.store.sink_states import SinkStates
from tests.support.synced_account import Open, SyncedAccount, opened_accounts


class Killed(BaseException):
    """Kills a process in the middle of its work: no code of ours may catch it."""


@pytest.fixture
def open_account(tracked_urls: tuple[str, str], redis: Redis) -> Iterator[Open]:
    with opened_accounts(*tracked_urls, redis) as open_account:
        yield open_account


@pytest.fixture
def account(open_account: Open) -> SyncedAccount:
    return open_account()


def test_exactly_the_rows_that_vanished_are_deleted_in_any_order(account: SyncedAccount) -> None:
    account.sync("first", range(5000))
    gone = {str(number) for number in Random(1).sample(range(5000), 50)}
    left = [number for number in range(5000) if str(number) not in gone]
    # The end overtakes the pages, which are processed in another order.
    end = account.send_end("second", len(left))
    pages = account.send_pages("second", left)
    Random(2).shuffle(pages)
    account.process([end])
    account.reconcile()
    assert account.checks.list_of_run("second", limit=1) == []
    for start in range(0, len(pages), 10):
        account.process(pages[start : start + 10])
    account.reconcile()

    assert account.list_deleted() == gone
    assert account.get_check("second").marked_rows == 50
    assert account.find_result("second") == ("done", "")

    # Again: nothing is marked twice, and the next run makes a row that came back live again.
    account.reconcile()
    back = min(gone)
    account.sync("third", [*left, back])
    assert account.list_deleted() == gone - {back}
    assert account.get_check("third").marked_rows == 0


def test_a_run_begins_with_its_first_received_delivery_whichever_is_processed_first(
    account: SyncedAccount,
) -> None:
    names = {"sync_job_id": "job", "integrated_account_id": "account"}
    records = [{"id": str(number)} for number in range(20)]
    page = {**names, "resource": "crm/contacts", "method": "list", "records": records}
    # Newer than the pages of the run, which then change no row.
    ahead = account.now + timedelta(hours=12)
    account.process([account.receive("sync_job_run:record", {**page, "sync_job_run_id": "first"}, at=ahead)])
    pages = account.send_pages("second", range(19))
    account.now += timedelta(minutes=1)

    account.process([account.send_end("second", 19)])
    account.process(pages)
    account.reconcile()

    assert account.list_deleted() == {"19"}


def test_a_page_that_arrives_after_the_marks_makes_its_rows_live_again(account: SyncedAccount) -> None:
    account.sync("first", range(200))
    account.sync("second", range(195))
    assert account.list_deleted() == {"195", "196", "197", "198", "199"}

    account.process(account.send_pages("second", ["196"]))
    account.reconcile()

    assert account.list_deleted() == {"195", "197", "198", "199"}


@pytest.mark.parametrize(
    ("details", "error", "reason"),
    [
        ({}, "crm/contacts", "record_errors"),
        ({}, "crm/accounts", ""),
        # The records of the accounts are the arguments of the queries.
        (
            {"resources": [{"resource": "crm/contacts", "method": "list", "loop_on": "{{x}}"}]},
            "crm/accounts",
            "record_errors",
        ),
        ({"status": "stopped"}, "", "not_completed"),
        ({"status": "failed"}, "", "not_completed"),
        ({"events_to_send": ["record", "started", "completed"]}, "", "errors_not_sent"),
        (
            {"resources": [{"resource": "crm/contacts", "query": {"since": "{{previous_run_date}}"}}]},
            "",
            "incremental",
        ),
        (
            {
                "resources": [{"resource": "crm/contacts", "query": {"since": "{{previous_run_date}}"}}],
                "ignore_previous_run": True,
            },
            "",
            "",
        ),
        (
            {"resources": [{"resource": "crm/deals", "query": {"since": "{{previous_run_date}}"}}]},
            "",
            "incremental",
        ),
    ],
)
def test_a_run_that_may_lack_records_deletes_nothing(
    account: SyncedAccount, details: dict[str, Any], error: str, reason: str
) -> None:
    account.sync("first", range(100))
    if error:
        account.process([account.send_error("second", error)])

    account.sync("second", range(98), **details)

    assert account.find_result("second") == (("held_back", reason) if reason else ("done", ""))
    assert account.list_deleted() == (set() if reason else {"98", "99"})
    held = list_held(account, "job" if reason == "incremental" else "second")
    assert (("second", "crm/contacts", reason) in held) == bool(reason)


def list_held(account: SyncedAccount, subject: str) -> list[tuple[str, str, str]]:
    """The held checks in notifications: run, resource and reason."""
    return [
        (notification.payload["sync_job_run_id"], check["resource"], check["reason"])
        for notification in Notifications(account.store).for_subject(subject, limit=20)
        if notification.kind == "deletes.held"
        for check in notification.payload["held"]
    ]


def test_incremental_runs_between_full_ones_are_notified_once(account: SyncedAccount) -> None:
    incremental = {"resources": [{"resource": "crm/contacts", "query": {"since": "{{previous_run_date}}"}}]}
    account.sync("full", range(100))
    for run in ("hour 1", "hour 2"):
        account.sync(run, range(5), **incremental)
        assert account.find_result(run) == ("held_back", "incremental")
    account.sync("night", range(98))

    assert list_held(account, "job") == [("hour 1", "crm/contacts", "incremental")]
    assert list_held(account, "hour 2") == []
    checks = DeleteChecks(account.store)
    assert not checks.count_held(since=datetime(2020, 1, 1, tzinfo=UTC)).total
    assert account.list_deleted() == {"98", "99"}


def test_a_run_with_missing_records_deletes_nothing_until_they_arrive(account: SyncedAccount) -> None:
    account.sync("first", range(100))
    account.process([*account.send_pages("second", range(90)), account.send_end("second", 98)])
    account.reconcile()
    assert account.find_result("second") == ("held_back", "incomplete")

    account.process(account.send_pages("second", range(90, 98)))
    account.reconcile()

    assert account.find_result("second") == ("done", "")
    assert account.list_deleted() == {"98", "99"}


def test_dead_records_hold_back_the_marks_of_their_resource(account: SyncedAccount) -> None:
    account.sync("first", range(100))
    names = {"sync_job_run_id": "second", "sync_job_id": "job", "integrated_account_id": "account"}
    page = {**names, "resource": "crm/contacts", "method": "list", "records": ["no object"]}
    account.process(
        [
            account.receive("sync_job_run:record", page),
            *account.send_pages("second", range(98)),
            account.send_end("second", 99),
        ]
    )
    account.reconcile()

    assert account.find_result("second") == ("held_back", "dead_records")
    assert account.list_deleted() == set()


def test_more_rows_than_the_share_wait_for_an_approval(account: SyncedAccount) -> None:
    account.sync("first", range(100))
    account.sync("second", range(79))

    check = account.get_check("second")
    assert (check.state, check.reason, check.live_rows, check.unseen_rows) == (
        "held_back",
        "over_share",
        100,
        21,
    )
    assert account.list_deleted() == set()

    assert account.checks.approve(check.id, by="ops", now=account.now)
    account.marker.run_once()

    assert len(account.list_deleted()) == 21
    assert account.get_check("second").marked_rows == 21
    assert not account.checks.approve(check.id, by="ops", now=account.now)


@pytest.mark.parametrize("rows", [1, 8, 500])
def test_a_run_without_records_never_deletes_all(account: SyncedAccount, rows: int) -> None:
    account.sync("first", range(rows))
    account.sync("second", [])

    assert account.find_result("second") == ("held_back", "over_share")
    assert account.list_deleted() == set()


@pytest.mark.parametrize(("share", "gone", "is_held"), [(0.2, 10, False), (0.2, 11, True), (0.0, 1, True)])
def test_up_to_ten_rows_of_a_small_table_may_go(
    open_account: Open, share: float, gone: int, is_held: bool
) -> None:
    account = open_account(max_deleted_share=share)
    account.sync("first", range(20))
    account.sync("second", range(20 - gone))

    assert len(account.list_deleted()) == (0 if is_held else gone)


def test_a_newer_complete_run_decides_instead_of_one_that_waits_for_an_approval(
    account: SyncedAccount,
) -> None:
    account.sync("first", range(100))
    account.sync("second", range(50))
    check = account.get_check("second")
    account.sync("third", range(50))

    assert not account.checks.approve(check.id, by="ops", now=account.now)
    assert account.find_result("second") == ("superseded", "newer_run")
    assert account.find_result("third") == ("held_back", "over_share")
    assert account.list_deleted() == set()


def test_an_approval_during_a_newer_run_deletes_no_row_that_it_has_seen(account: SyncedAccount) -> None:
    account.sync("first", range(100))
    account.sync("second", range(50))
    check = account.get_check("second")
    account.process(account.send_pages("third", range(40, 60)))
    # Received, and not processed yet.
    late = account.send_pages("third", range(60, 70))

    assert account.checks.approve(check.id, by="ops", now=account.now)
    account.marker.run_once()
    account.process(late)

    assert account.list_deleted() == {str(number) for number in range(70, 100)}


@pytest.mark.parametrize("details", [{"status": "failed"}, {"args": {"since": "{{previous_run_date}}"}}])
def test_a_newer_run_that_decides_nothing_leaves_an_earlier_check(
    account: SyncedAccount, details: dict[str, Any]
) -> None:
    account.sync("first", range(100))
    account.sync("second", range(50))
    account.sync("third", range(5), **details)

    assert account.find_result("third")[0] == "held_back"
    assert account.checks.approve(account.get_check("second").id, by="ops", now=account.now)
    account.marker.run_once()

    assert account.list_deleted() == {str(number) for number in range(50, 100)}


def test_a_run_that_starts_before_the_marks_keeps_the_rows_that_it_has_seen(account: SyncedAccount) -> None:
    account.sync("first", range(100))
    account.process([*account.send_pages("second", range(97)), account.send_end("second", 97)])
    account.now += timedelta(minutes=3)
    account.monitor.run_once()
    account.process(account.send_pages("third", ["98"]))
    account.marker.run_once()

    assert account.find_result("second") == ("done", "")
    assert account.list_deleted() == {"97", "99"}


def test_accounts_and_jobs_delete_only_their_own_rows(account: SyncedAccount) -> None:
    account.sync("a1", range(20))
    account.sync("b1", range(20), account="other")
    # Another job fetches another part of the resource.
    account.sync("c1", range(100, 120), job="other job")

    account.sync("a2", range(19))

    assert account.list_deleted() == {"19"}
    assert account.list_deleted("other") == set()
    account.sync("c2", range(101, 120), job="other job")
    assert account.list_deleted() == {"19", "100"}


def test_rows_of_batches_that_name_no_job_are_of_the_job_of_their_run(account: SyncedAccount) -> None:
    first = account.send_pages("first", range(20), job="")
    account.process([*first, account.send_end("first", 20)])
    other = account.send_pages("other", range(100, 120), job="")
    account.process([*other, account.send_end("other", 20, job="other job")])
    second = account.send_pages("second", range(19), job="")
    account.process([*second, account.send_end("second", 19)])
    account.reconcile()

    assert account.list_deleted() == {"19"}


def test_rows_that_an_event_wrote_last_stay(account: SyncedAccount) -> None:
    account.sync("first", range(20))
    update = {"resource": "crm/contacts", "integrated_account_id": "account", "record": {"id": "19"}}
    account.process([account.receive("record:updated", update)])

    account.sync("second", range(18))

    assert account.list_deleted() == {"18"}


def test_a_record_that_the_filter_now_leaves_out_is_deleted(open_account: Open) -> None:
    open_account().sync("first", range(20))
    account = open_account(filter="id != '7'")
    account.now += timedelta(hours=1)

    account.sync("second", range(20))

    assert account.list_deleted() == {"7"}


def test_a_paused_sink_waits(account: SyncedAccount) -> None:
    account.sync("first", range(20))
    account.process([*account.send_pages("second", range(19)), account.send_end("second", 19)])
    SinkStates(account.store).pause("main", by="ops", reason="", now=account.now)
    account.reconcile()
    assert account.find_result("second") == ("due", "sink_paused")
    assert account.list_deleted() == set()

    SinkStates(account.store).resume("main")
    account.reconcile()

    assert account.list_deleted() == {"19"}


def test_pending_deliveries_of_the_resource_are_awaited(account: SyncedAccount) -> None:
    account.sync("first", range(20))
    # Received before the run: it must not be processed after the marks.
    earlier = account.send_pages("earlier", ["19"], job="other job")
    account.process([*account.send_pages("second", range(19)), account.send_end("second", 19)])
    account.reconcile()
    assert account.find_result("second") == ("due", "pending")
    assert account.list_deleted() == set()

    account.process(earlier)
    account.reconcile()

    # The row belongs to the other job now.
    assert account.list_deleted() == set()
    assert account.find_result("second") == ("done", "")


def test_a_killed_process_is_continued_by_another(open_account: Open) -> None:
    account = open_account(max_deleted_share=0.9)
    account.sync("first", range(5000))
    account.process([*account.send_pages("second", range(2500)), account.send_end("second", 2500)])
    account.now += timedelta(minutes=3)
    account.monitor.run_once()

    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        account.add_marker("dying", die).run_once()
    other = account.add_marker("other")
    assert len(account.list_deleted()) == 1000

    other.run_once()
    assert len(account.list_deleted()) == 1000, "the other process has to wait for the end of the lease"
    account.now += timedelta(minutes=2)
    other.run_once()

    assert len(account.list_deleted()) == 2500
    check = account.get_check("second")
    assert (check.state, check.live_rows, check.unseen_rows, check.marked_rows) == ("done", 5000, 2500, 2500)
