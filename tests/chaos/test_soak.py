"""A short soak, which must detect builds broken on purpose."""

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from tests.chaos.plan import Fault, Kind, list_kinds, plan_faults
from tests.chaos.report import render_report
from tests.chaos.soak import Soak, SoakReport, run_soak
from tests.support.container import can_run_containers
from tests.support.processes import ROOT

pytestmark = pytest.mark.chaos

# In its order, no fault whose recovery is awaited comes after the death of workers, whose leases last for 40 s.
SEED = "ci-221"

CopySource = Callable[[], Path]

ANSWER_BEFORE_COMMIT = """

import uuid
import gevent
from app.store.models import Receipt

_submit = GroupCommit.submit

def _answer_first(self, item):
    gevent.spawn_later(0.5, _submit, self, item)
    return Receipt(uuid.uuid4(), is_duplicate=False)

GroupCommit.submit = _answer_first
"""
NEVER_FEED = """

Feeder.start = lambda self: None
"""
LOG_A_RECORD = """

import structlog

_read_records = read_records

def read_records(body, **options):
    batch = _read_records(body, **options)
    structlog.get_logger().info("batch.read", first=str(batch.records[:1]) if batch else "")
    return batch
"""
LOG_SETTINGS = """

def list_changed_settings(settings):
    return [settings.database_url]
"""


@pytest.fixture
def copy_source(tmp_path: Path) -> CopySource:
    """Returns a function that copies the source, to be broken by the test."""

    def copy() -> Path:
        tree = tmp_path / "tree"
        for package in ("app", "workers"):
            shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
        return tree

    return copy


def append(file: Path, code: str) -> None:
    file.write_text(file.read_text() + code)


def make_faults(*kinds: Kind) -> list[Fault]:
    return [Fault(kind, delay_s=1.0, duration_s=0.5) for kind in kinds]


def test_under_every_kind_of_fault_nothing_is_lost_doubled_or_set_back(tmp_path: Path) -> None:
    # One round of every kind except the one that takes most of a minute.
    kinds = list_kinds(with_containers=can_run_containers())
    faults = list(islice(plan_faults(SEED, with_containers=can_run_containers()), len(kinds)))

    report = run_soak(Soak(SEED, faults, min_sending_s=75), tmp_path)

    assert report.is_fine, render_report(report)
    assert {recovery.kind for recovery in report.recoveries} == set(kinds), render_report(report)
    assert report.audit_result.counts["records acknowledged"] > 10_000
    assert report.audit_result.counts["dead records"] > 0


def test_a_sound_build_passes_the_soak_of_the_broken_ones(tmp_path: Path) -> None:
    faults = make_faults("web killed", "Valkey killed", "web killed", "Valkey killed")

    report = run_short_soak(tmp_path, ROOT, faults)

    assert report.is_fine, render_report(report)


def test_a_build_that_answers_before_it_commits_is_detected(tmp_path: Path, copy_source: CopySource) -> None:
    tree = copy_source()
    append(tree / "app/web/group_commit.py", ANSWER_BEFORE_COMMIT)

    report = run_short_soak(tmp_path, tree, make_faults("web killed", "web killed"))

    assert report.audit_result.faults["lost"] > 0, render_report(report)


def test_a_build_without_the_version_guard_is_detected(tmp_path: Path, copy_source: CopySource) -> None:
    tree = copy_source()
    guard = "WHERE {merge.condition}"
    merge = tree / "app/sinks/sql/merge.py"
    source = merge.read_text()
    assert source.count(guard) == 1, f"{merge.name} has changed: remove its guard in another way"
    merge.write_text(source.replace(guard, "WHERE true"))

    report = run_short_soak(tmp_path, tree, [])

    assert set(report.audit_result.faults) == {"regressed"}, render_report(report)


def test_a_build_without_a_feeder_is_detected(tmp_path: Path, copy_source: CopySource) -> None:
    tree = copy_source()
    append(tree / "workers/background/feeder.py", NEVER_FEED)

    report = run_short_soak(
        tmp_path, tree, make_faults("Valkey killed", "Valkey killed"), settle_timeout_s=15
    )

    assert set(report.audit_result.faults) >= {"unsettled"}, render_report(report)
    assert not report.audit_result.faults["lost"], render_report(report)


def test_a_build_that_logs_a_record_or_a_password_is_detected(
    tmp_path: Path, copy_source: CopySource
) -> None:
    tree = copy_source()
    append(tree / "app/truto/records.py", LOG_A_RECORD)
    append(tree / "app/config/summary.py", LOG_SETTINGS)

    report = run_short_soak(tmp_path, tree, [])

    assert set(report.audit_result.faults) == {"leaked"}, render_report(report)
    examples = " ".join(report.audit_result.examples)
    assert "field of a record in workers-1.log" in examples
    assert "password of the database in" in examples


def run_short_soak(
    folder: Path, tree: Path, faults: list[Fault], *, settle_timeout_s: float = 120.0
) -> SoakReport:
    soak = Soak("broken", faults, min_sending_s=8, settle_timeout_s=settle_timeout_s, tree=tree)
    return run_soak(soak, folder)
