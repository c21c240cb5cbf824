"""The tables of docs/security.md and SECURITY.md against the tests that they name."""

import re
import subprocess
import sys
from collections import Counter

import pytest

from tests.support.documentation import PAGES, ROOT

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGES["docs/security.md"].partition("## Attacks tried")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and "`tests/" in line
]
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/security.md"])
def test_every_test_that_a_page_of_security_names_exists(page: str) -> None:
    named = _TEST.findall(PAGES[page])

    missing = [f"{file}::{name}" for file, name in named if f"def {name}" not in (ROOT / file).read_text()]

    assert len(named) > 10
    assert not missing


def test_every_row_has_a_number_a_result_and_a_test() -> None:
    assert len(ROWS) > 30
    for row in ROWS:
        assert len(row) == 4, row
        assert re.fullmatch(r"\d[\d,]*( cases?)?", row[1]), row
        assert _TEST.findall(row[3]), row


def test_the_numbers_of_cases_are_those_of_the_tests() -> None:
    cases = {row[3]: int(row[1].split()[0]) for row in ROWS if "case" in row[1]}
    files = sorted({file for tests in cases for file, _ in _TEST.findall(tests)})

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    collected = Counter[str]()
    for line in ran.stdout.splitlines():
        file, separator, name = line.partition("::")
        if separator:
            collected[file] += 1
            collected[f"{file}::{name.partition('[')[0]}"] += 1
    found = {
        tests: sum(collected["::".join(filter(None, test))] for test in _TEST.findall(tests))
        for tests in cases
    }
    assert found == cases
