"""`rapidbridge deletes`, and the page of a run: rows that full syncs no longer have."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from app.database.engine import open_database
from app.store.audit_log import AuditLog
from app.store.delete_checks import DeleteChecks, DeleteCheckState
from app.store.migrate import migrate
from tests.support.delete_checks import build_check, save_check
from tests.support.documentation import read_marked_block
from tests.support.seeded_store import SeededStore


@pytest.fixture
def seeded(tmp_path: Path) -> Iterator[SeededStore]:
    url = f"sqlite:///{tmp_path}/store.db"
    database = open_database(url)
    migrate(database)
    yield SeededStore(database, url)
    database.close()


def test_a_list_names_the_reason_and_the_command_of_every_held_back_mark(seeded: SeededStore) -> None:
    assert seeded.rapidbridge("deletes", "list").stdout == "No deletes.\n"
    save_check(seeded.store, replace(build_check("r0"), integrated_account_id="other"))
    id_ = save_check(seeded.store, build_check("r1", "over_share"))

    listed = " ".join(seeded.rapidbridge("deletes", "list", code=1).stdout.split())
    as_json = json.loads(seeded.rapidbridge("deletes", "list", "--held", "--json", code=1).stdout)

    assert "r1 crm/contacts main: more rows than max_deleted_share are gone (40 of 100 rows)" in listed
    assert f"deletes approve {id_}" in listed
    assert [check["sync_job_run_id"] for check in as_json["deletes"]] == ["r1"]


def test_the_list_is_that_of_the_page(seeded: SeededStore) -> None:
    command, *shown = read_marked_block("docs/runs.md", "deletes list").splitlines()
    [held_run, done_run] = [line.split()[0] for line in shown[1:3]]
    held = replace(
        build_check(held_run, "over_share", at=datetime(2026, 11, 25, 4, tzinfo=UTC)),
        id=UUID(shown[-1].split()[-1]),
    )
    done = replace(
        build_check(done_run, at=held.began_at - timedelta(days=1)),
        state=DeleteCheckState.DONE,
        marked_rows=12,
    )
    save_check(seeded.store, done)
    save_check(seeded.store, held, live_rows=1200, unseen_rows=450)

    listed = seeded.rapidbridge(*command.split()[2:], code=1).stdout

    assert listed.replace(f"{sys.executable} -m app.cli", "rapidbridge").splitlines() == shown


def test_an_approval_is_recorded_once_and_makes_the_mark_due(seeded: SeededStore) -> None:
    id_ = save_check(seeded.store, build_check("r1", "over_share"))

    approved = seeded.rapidbridge("deletes", "approve", str(id_))
    again = seeded.rapidbridge("deletes", "approve", str(id_), code=1)

    assert approved.stdout == "Approved: workers mark 40 rows of crm/contacts in main as deleted.\n"
    assert "the check is not held back, but due" in again.stderr
    check = DeleteChecks(seeded.store).get(id_)
    assert check
    assert check.state == "due"
    assert check.approved_by
    assert [(e.action, e.subject) for e in AuditLog(seeded.store).list_newest(limit=9)] == [
        ("deletes.approve", str(id_))
    ]


def test_no_other_mark_can_be_approved(seeded: SeededStore) -> None:
    id_ = save_check(seeded.store, build_check("r1", "record_errors"))

    refused = seeded.rapidbridge("deletes", "approve", str(id_), code=1)

    message = "Not approved: Truto could not fetch all records of the resource"
    assert message in " ".join(refused.stderr.split())
    check = DeleteChecks(seeded.store).get(id_)
    assert check
    assert check.state == "held_back"
    assert AuditLog(seeded.store).list_newest(limit=9) == []


def test_an_unknown_mark_is_named(seeded: SeededStore) -> None:
    refused = seeded.rapidbridge("deletes", "approve", str(uuid4()), code=1)

    assert "There is no delete check" in refused.stderr
