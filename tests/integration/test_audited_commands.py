"""Commands that act leave one entry in the audit log, and none if they change nothing."""

import getpass
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.cli.common.audit import audit_at_truto
from app.database.engine import open_database
from app.store.audit_log import AuditLog
from app.store.migrate import migrate
from app.store.operations import Operations
from app.store.schema import audit_log
from app.store.sink_states import SinkStates
from tests.support.seeded_store import SeededStore

ACCOUNT = "94801e49-a652-42f9-af14-dd203d7897da"


@pytest.fixture
def seeded(tmp_path: Path) -> Iterator[SeededStore]:
    url = f"sqlite:///{tmp_path}/store.db"
    database = open_database(url)
    migrate(database)
    yield SeededStore(database, url)
    database.close()


def list_actions(seeded: SeededStore) -> list[tuple[str, str, int]]:
    """Return the recorded actions, oldest first."""
    entries = AuditLog(seeded.store).list_newest(limit=99)
    return [(entry.action, entry.subject, entry.number.number) for entry in reversed(entries)]


def test_a_pause_and_its_end_are_recorded_once_with_the_operator(seeded: SeededStore) -> None:
    for word in ("pause", "pause", "resume", "resume"):
        seeded.rapidbridge("sinks", word, "main")

    assert list_actions(seeded) == [("sink.pause", "main", 1), ("sink.resume", "main", 1)]
    [newest] = AuditLog(seeded.store).list_newest(limit=1)
    assert (newest.actor, newest.address) == ("command line", f"{getpass.getuser()}@{socket.gethostname()}")
    assert [state.paused_at for state in SinkStates(seeded.store).list()] == [None]


def test_a_discard_is_recorded_with_its_conditions(seeded: SeededStore) -> None:
    seeded.put("unrouted", "no_route", resource="crm/deals")
    words = ("dead", "discard", "--resource", "crm/*", "--because", "not ours", "--yes")

    seeded.rapidbridge(*words)
    seeded.rapidbridge(*words)

    [(action, subject, number)] = list_actions(seeded)
    assert (action, number) == ("failed.discard", 1)
    assert "resource: crm/*" in subject
    assert "because: not ours" in subject


def test_the_cancellation_of_a_finished_operation_is_no_action(seeded: SeededStore) -> None:
    seeded.put("dead", "x")
    seeded.rapidbridge("dead", "discard", "--reason", "x", "--because", "x", "--yes")
    [operation] = Operations(seeded.store).list_newest(limit=2)

    seeded.rapidbridge("operations", "cancel", str(operation.id))

    assert [action for action, *_ in list_actions(seeded)] == ["failed.discard"]


def test_deletions_are_recorded_and_an_erasure_without_the_account(seeded: SeededStore) -> None:
    seeded.put("settled", received_at=datetime.now(UTC) - timedelta(days=2))

    seeded.rapidbridge("prune", "--older-than", "1d", "--dry-run")
    seeded.rapidbridge("prune", "--older-than", "1d", "--yes")
    seeded.rapidbridge("prune", "--older-than", "1d", "--yes")
    seeded.put("settled")
    # Redis is not reached: the exit code is 1.
    seeded.rapidbridge("erase", "--account", ACCOUNT, "--dry-run", code=1)
    seeded.rapidbridge("erase", "--account", ACCOUNT, "--yes", code=1)

    [prune, erase] = list_actions(seeded)
    assert (prune[0], prune[2]) == ("delivery.prune", 1)
    assert erase == ("account.erase", "an integrated account", 1)


def test_an_import_is_recorded(seeded: SeededStore, tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    file.write_text("", encoding="utf-8")

    seeded.rapidbridge("replay", "--from", str(file), "--dry-run")
    seeded.rapidbridge("replay", "--from", str(file))

    assert list_actions(seeded) == [("delivery.import", "export.jsonl", 1)]


def test_an_action_is_not_carried_out_unrecorded(seeded: SeededStore) -> None:
    audit_log.drop(seeded.store.engine)

    seeded.rapidbridge("sinks", "pause", "main", code=3)

    assert SinkStates(seeded.store).list() == []


@pytest.mark.parametrize(
    "location", ["sqlite:///{}/missing.db", "sqlite:///{}", "postgresql://u:p@127.0.0.1:1/db", "x"]
)
def test_an_action_at_truto_needs_no_database(
    tmp_path: Path, location: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", location.format(tmp_path))

    audit_at_truto("run.stop", "r")

    assert "not recorded in the audit log" in capsys.readouterr().err.replace("\n  ", " ")
    assert list(tmp_path.iterdir()) == []
