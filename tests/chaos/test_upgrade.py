"""The release before and this one, side by side on one database."""

from pathlib import Path

import pytest

from app.config.version import VERSION
from tests.chaos.upgrade import run_upgrade
from tests.support.processes import ROOT
from tests.support.releases import extract, get_previous_release

pytestmark = pytest.mark.chaos


def test_an_upgrade_and_its_way_back_lose_double_and_refuse_nothing(tmp_path: Path) -> None:
    release = get_previous_release()
    previous = extract(release, tmp_path / "previous")

    report = run_upgrade((release.version, previous), (VERSION, ROOT), tmp_path)

    assert report.given_up == 0, report.render()
    assert not report.audit_result.faults, report.render()
    assert report.audit_result.counts["records acknowledged"] > 5_000
