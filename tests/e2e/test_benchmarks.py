"""Small runs of every benchmark: the numbers of docs/performance.md can be measured again."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.e2e
PAGE = ROOT / "docs" / "performance.md"
SMALL_RUNS = {
    "accept": "--seconds 0.3 --rounds 1 --records 1 --connections 1 2",
    "end_to_end": "--records 400 --rounds 1",
    "loaders": "--records 400 --page 100 --rounds 1 --without-loaders",
    "worker_job": "--records 400 --rounds 1",
    "freshness": "--seconds 1 --rounds 1 --cases rates",
    "growth": "--sizes 1000 2000 --rounds 1 --calls 1 --backlog 0",
    "scale": "--processes 1 2 --seconds 0.3 --rounds 1",
    "footprint": "--seconds 1 --rounds 1",
    "pages": "--deliveries 20000 --requests 1",
}


def test_every_benchmark_of_the_page_is_run_here() -> None:
    named = set(re.findall(r"python -m benchmarks\.(\w+)", PAGE.read_text()))

    # CI runs `quick` as it is.
    assert named == SMALL_RUNS.keys() | {"quick"}


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
    if name == "accept":
        assert_floor_is_below_the_bare_view(results["rows"], ran.stdout)


def assert_floor_is_below_the_bare_view(rows: list[dict[str, Any]], output: str) -> None:
    rates = {row["contender"]: row["per_s"] for row in rows if row["connections"] == 2}
    share = re.search(r"(\d+)% of the floor's rate", output)
    assert share
    assert float(share[1]) == pytest.approx(100 * rates["PostgreSQL"] / rates["floor"], abs=1)
    assert 0 < rates["floor"] < rates["bare, gevent"]
    [floor] = [row for row in rows if row["contender"] == "floor"]
    assert 1 <= floor["group_size"] <= 2


@pytest.mark.skipif(not (shutil.which("valgrind") or "CI" in os.environ), reason="valgrind is not installed")
def test_a_step_that_takes_a_third_more_instructions_than_stored_fails(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    count_steps(figures, "--update", expected_code=0)
    [(version, stored)] = json.loads(figures.read_text()).items()
    figures.write_text(json.dumps({version: stored | {"envelope": stored["envelope"] * 3 // 4}}))

    ran = count_steps(figures, expected_code=1)

    assert re.findall(r"^(\w+): .* instructions instead of", ran.stderr, re.MULTILINE) == ["envelope"]
    assert "python -m benchmarks.quick --update --step envelope" in ran.stderr
    # The same count in another run.
    assert re.search(r"^\| verify \|.*\| (0\.99|1\.00|1\.01) \|$", ran.stdout, re.MULTILINE)


def count_steps(figures: Path, *options: str, expected_code: int) -> subprocess.CompletedProcess[str]:
    steps = ["--step", "verify", "--step", "envelope", "--figures", str(figures)]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.quick", *steps, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == expected_code, ran.stdout + ran.stderr
    return ran


def test_a_loader_that_cannot_be_installed_gets_no_number(tmp_path: Path) -> None:
    options = "--records 200 --page 100 --rounds 1 --sinks postgresql --loaders"

    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.loaders", *options.split(), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert len(re.findall(r"^\| (dlt|target-postgres), .* \| not available ", ran.stdout, re.MULTILINE)) == 4
    assert "No matching distribution" in ran.stdout


def test_every_file_that_the_page_links_to_exists() -> None:
    links = re.findall(r"\]\((performance[^)]*)\)", PAGE.read_text())

    assert len(links) > 5
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
