"""The table of conditions in docs/operations.md against the code."""

import re

import pytest

from app.config.notify import NOTIFICATION_KINDS
from app.notify.slack import format_slack_text
from app.web.readiness_warnings import CONDITIONS
from tests.integration.test_doctor import list_documented_checks
from tests.support.documentation import ROOT, read_section

# They report a result, and no condition to act on.
INFORMATIVE_KINDS = {"run.reconciled", "run.stopped"}
SOURCES = "".join(path.read_text() for name in ("app", "workers") for path in (ROOT / name).rglob("*.py"))


def list_rows() -> list[list[str]]:
    """Return the rows of the table, each with its five cells."""
    table = read_section("docs/operations.md", "Conditions to act on, and their places")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return rows[1:]


def list_names(cell: str) -> set[str]:
    return set(re.findall(r"`([\w.]+)`", cell))


def test_every_condition_has_a_notification_or_a_reason_for_none() -> None:
    cells = [row[4] for row in list_rows()]

    assert set().union(*map(list_names, cells)) == set(NOTIFICATION_KINDS) - INFORMATIVE_KINDS
    assert all(cell.startswith(("`", "none")) for cell in cells)


def test_every_warning_of_readyz_is_in_the_table_and_described() -> None:
    listed = set().union(*(list_names(row[1]) for row in list_rows()))
    described = set().union(
        *(
            list_names(line.split(" | ")[0])
            for line in read_section("docs/http.md", "Warnings").splitlines()
            if line.startswith("| `")
        )
    )
    checks = {"store", "redis", "workers", "backlog", "spool"}

    assert listed == described - {"not_read"} | checks
    assert {name for name, _, _ in CONDITIONS.values()} <= described
    assert all(f'"{name}"' in SOURCES for name in described)


def test_every_check_of_doctor_in_the_table_exists() -> None:
    for row in list_rows():
        for part in re.findall(r"(\w+) ((?:`\w+`(?:, )?)+)", row[2]):
            documented = {(part[0], check) for check in list_names(part[1])}
            assert documented <= list_documented_checks(), row[0]


def test_every_log_event_in_the_table_is_written() -> None:
    # Some names are made of "delivery." and a status, or are the kind of a notification.
    for event in set().union(*(list_names(row[3]) for row in list_rows())):
        status = event.removeprefix("delivery.")
        assert f'"{event}"' in SOURCES or f'"{status}"' in SOURCES, event


@pytest.mark.parametrize("kind", NOTIFICATION_KINDS)
def test_every_notification_has_a_text_for_slack(kind: str) -> None:
    assert format_slack_text(kind, {}) != f"*{kind}* "
