"""The delete checks of runs, on both databases."""

from dataclasses import replace
from datetime import timedelta

import pytest

from app.database.engine import Database
from app.store.bounded_count import BoundedCount
from app.store.delete_checks import DeleteChecks, HeldDeleteChecks, HoldReason
from tests.contract.test_delivery_search import explain, recorded_selects
from tests.support.delete_checks import build_check, save_check
from tests.support.seeded_store import NOW


@pytest.fixture
def checks(store: Database) -> DeleteChecks:
    return DeleteChecks(store)


@pytest.mark.parametrize(
    ("newer", "superseded"),
    [
        # Complete: it decides.
        ("", ["due", "over_share", "record_errors", "incremental"]),
        # A person may still approve the older check, and a worker carry out the one that waits.
        ("record_errors", ["record_errors", "incremental"]),
        ("incremental", ["incremental"]),
    ],
)
def test_a_newer_run_supersedes_only_checks_that_it_decides_better(
    store: Database, checks: DeleteChecks, newer: str, superseded: list[str]
) -> None:
    reasons = ("", "over_share", "record_errors", "incremental")
    # The newest first: a check replaces earlier ones only.
    older = {
        reason or "due": save_check(store, build_check(f"run {reason}", reason, minute=minute))
        for minute, reason in reversed(list(enumerate(reasons)))
    }
    other = save_check(store, replace(build_check("other", "over_share"), sync_job_id="other"))

    new = save_check(store, build_check("new", newer, minute=9))

    states = {name: check.state for name, id_ in older.items() if (check := checks.get(id_))}
    assert {name for name, state in states.items() if state == "superseded"} == {*superseded}
    kept = {id_: check.state for id_ in (other, new) if (check := checks.get(id_))}
    assert kept == {other: "held_back", new: "held_back" if newer else "due"}


def test_two_processes_never_lease_one_check_until_its_lease_ends(
    store: Database, checks: DeleteChecks
) -> None:
    id_ = save_check(store, build_check("r1"))

    first = checks.lease(id_, owner="first", now=NOW)
    assert first
    assert checks.lease(id_, owner="second", now=NOW + timedelta(seconds=59)) is None
    assert checks.renew(first, now=NOW + timedelta(seconds=59))
    second = checks.lease(id_, owner="second", now=NOW + timedelta(seconds=120))

    assert second
    assert not checks.renew(first, now=NOW + timedelta(seconds=121))
    assert not checks.finish(first, marked_rows=1, now=NOW)
    assert not checks.supersede(first, HoldReason.NEWER_RUN, now=NOW)
    assert checks.finish(second, marked_rows=1, now=NOW)


def test_only_a_check_that_the_share_holds_back_is_approved_once(
    store: Database, checks: DeleteChecks
) -> None:
    held = save_check(store, build_check("r1", "over_share"))
    errors = save_check(store, build_check("r2", "record_errors", resource="crm/deals"))

    assert not checks.approve(errors, by="ada", now=NOW)
    assert checks.approve(held, by="ada", now=NOW)
    assert not checks.approve(held, by="bob", now=NOW)

    check = checks.get(held)
    assert check
    assert (check.state, check.reason, check.approved_by, check.approved_at) == ("due", "", "ada", NOW)


def test_held_checks_are_counted_and_listed_with_the_newest_first(
    store: Database, checks: DeleteChecks
) -> None:
    assert checks.count_held(since=NOW) == HeldDeleteChecks(BoundedCount(0), 0)
    old = save_check(
        store, build_check("old", "over_share", resource="crm/notes", at=NOW - timedelta(days=8))
    )
    errors = save_check(store, build_check("r1", "record_errors", resource="crm/deals"))
    share = save_check(store, build_check("r2", "over_share", minute=1))
    save_check(store, build_check("r3", resource="crm/tasks", minute=2))
    hourly = save_check(store, build_check("r4", "incremental", resource="crm/users", minute=3))

    assert checks.count_held(since=NOW) == HeldDeleteChecks(BoundedCount(2), 1)
    assert [check.id for check in checks.list_newest(limit=9, is_held=True)] == [hourly, share, errors, old]
    assert [check.id for check in checks.list_held(limit=9, since=NOW)] == [share, errors]
    assert len(checks.list_newest(limit=9)) == 5


def test_due_and_held_checks_are_found_by_their_index(store: Database, checks: DeleteChecks) -> None:
    with recorded_selects(store) as statements:
        checks.list_due(now=NOW, limit=9)
        checks.count_held(since=NOW)
        checks.list_newest(limit=9, is_held=True)

    indexes = ["due", "held", "held"]
    assert len(statements) == len(indexes)
    for (statement, parameters), index in zip(statements, indexes, strict=True):
        assert f"rapidbridge_delete_checks_{index}" in explain(store, statement, parameters)


def test_checks_are_deleted_after_90_days(store: Database, checks: DeleteChecks) -> None:
    save_check(store, build_check("r1", "over_share"))

    assert checks.delete_old(now=NOW + timedelta(days=89)) == 0
    assert checks.delete_old(now=NOW + timedelta(days=91)) == 1
