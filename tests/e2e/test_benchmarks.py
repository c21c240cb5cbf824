"""Small runs of every benchmark: the numbers of docs/performance.md can be measured again."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.e2e
PAGE = ROOT / "docs" / "performance.md"
SMALL_RUNS = {
    "accept": "--seconds 0.3 --rounds 1 --records 1 --connections 1",
    "end_to_end": "--records 400 --rounds 1 --without-loaders",
    "growth": "--sizes 1000 2000 --rounds 1 --calls 1 --backlog 0",
    "scale": "--processes 1 2 --seconds 0.3 --rounds 1",
    "footprint": "--seconds 1 --rounds 1",
    "pages": "--deliveries 20000 --requests 1",
}


def test_every_benchmark_of_the_page_is_run_here() -> None:
    assert set(re.findall(r"python -m benchmarks\.(\w+)", PAGE.read_text())) == SMALL_RUNS.keys()


@pytest.mark.parametrize("name", SMALL_RUNS)
def test_a_benchmark_prints_a_table_and_saves_its_results(name: str, tmp_path: Path) -> None:
    results_file = tmp_path / "results.json"

    ran = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *SMALL_RUNS[name].split(), "--json", str(results_file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "|--:|" in ran.stdout
    results = json.loads(results_file.read_text())
    assert results["rows"]
    assert results["command"].startswith(f"python -m benchmarks.{name} ")


def test_every_file_that_the_page_links_to_exists() -> None:
    links = re.findall(r"\]\((performance[^)]*)\)", PAGE.read_text())

    assert len(links) > 5
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
