"""A short soak of the service as it is, and of builds that are broken on purpose: those must be caught."""

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from tests.chaos.plan import DURATIONS_S, Fault, Kind, plan_faults
from tests.chaos.report import render_report
from tests.chaos.soak import Soak, SoakReport, run_soak
from tests.support.processes import ROOT

pytestmark = pytest.mark.chaos

Break = Callable[[str, str, str], Path]


@pytest.fixture
def broken(tmp_path: Path) -> Break:
    """Returns a copy of the source with one piece of one file replaced."""

    def break_(file: str, piece: str, replacement: str) -> Path:
        tree = tmp_path / "tree"
        for package in ("app", "workers"):
            shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
        source = (tree / file).read_text()
        assert source.count(piece) == 1, f"{file} has changed: break it in another place"
        (tree / file).write_text(source.replace(piece, replacement))
        return tree

    return break_


def faults(*kinds: Kind) -> list[Fault]:
    return [Fault(kind, delay_s=1.0, duration_s=0.5) for kind in kinds]


def test_with_every_fault_at_once_nothing_is_lost_doubled_or_set_back(tmp_path: Path) -> None:
    planned = [fault for fault in islice(plan_faults("ci"), 2 * len(DURATIONS_S)) if fault.duration_s < 10]

    report = run_soak(Soak("ci", planned, sending_s=75), tmp_path)

    assert report.is_fine, render_report(report)
    assert len(report.recoveries) >= len(DURATIONS_S) - 1, render_report(report)
    assert report.audit_result.counts["records acknowledged"] > 10_000
    assert report.audit_result.counts["dead records"] > 0


def test_a_sound_build_passes_what_the_broken_ones_do_not(tmp_path: Path) -> None:
    report = run_broken_soak(
        tmp_path, ROOT, faults("web killed", "Valkey killed", "web killed", "Valkey killed")
    )

    assert report.is_fine, render_report(report)


def test_a_build_that_answers_before_it_commits_is_caught(tmp_path: Path, broken: Break) -> None:
    tree = broken(
        "app/web/failover_inbox.py",
        "receipt = self._commits.submit(arrival)",
        "gevent.spawn_later(0.5, self._commits.submit, arrival)\n"
        "            receipt = Receipt(arrival.delivery_id, is_duplicate=False)",
    )

    report = run_broken_soak(tmp_path, tree, faults("web killed", "web killed"))

    assert report.audit_result.faults["lost"] > 0, render_report(report)


def test_a_build_without_the_version_guard_is_caught(tmp_path: Path, broken: Break) -> None:
    guard = """f'WHERE ({current}."_version", {current}."_vseq") < (excluded."_version", excluded."_vseq")'"""
    tree = broken("app/sinks/sql/dialect.py", guard, "'WHERE true'")

    report = run_broken_soak(tmp_path, tree, [])

    assert set(report.audit_result.faults) == {"regressed"}, render_report(report)


def test_a_build_without_a_sweeper_is_caught(tmp_path: Path, broken: Break) -> None:
    tree = broken("app/cli/worker.py", "    sweeper.start()\n", "")

    report = run_broken_soak(tmp_path, tree, faults("Valkey killed", "Valkey killed"))

    assert set(report.audit_result.faults) >= {"unsettled"}, render_report(report)
    assert not report.audit_result.faults["lost"], render_report(report)


def run_broken_soak(folder: Path, tree: Path, planned: list[Fault]) -> SoakReport:
    return run_soak(Soak("broken", planned, sending_s=8, settle_timeout_s=30, tree=tree), folder)
