"""The benchmarks run, small as can be: what docs/performance.md shows can be measured again."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.e2e
PAGE = ROOT / "docs" / "performance.md"
SMALL = {
    "accept": "--seconds 0.3 --rounds 1 --records 1 --connections 1",
    "end_to_end": "--records 400 --rounds 1 --without-loaders",
    "growth": "--sizes 1000 2000 --rounds 1 --backlog 0",
    "scale": "--seconds 0.3 --rounds 1",
    "footprint": "--seconds 1 --rounds 1",
}


def test_every_command_of_the_page_is_tried_here() -> None:
    assert set(re.findall(r"python -m benchmarks\.(\w+)", PAGE.read_text())) == SMALL.keys()


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_measures_and_keeps_what_it_shows(name: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"

    ran = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *SMALL[name].split(), "--json", str(figures)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "|--:|" in ran.stdout
    kept = json.loads(figures.read_text())
    assert kept["rows"]
    assert kept["command"].startswith(f"python -m benchmarks.{name} ")


def test_what_the_page_links_to_is_there() -> None:
    links = re.findall(r"\]\((performance[^)]*)\)", PAGE.read_text())

    assert len(links) > 5
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
