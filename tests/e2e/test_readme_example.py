"""The commands of the README print the output that it shows."""

import re
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documentation import ROOT, read_marked_block
from tests.support.service import running_whole_service
from tests.support.web_process import make_environment

pytestmark = pytest.mark.e2e


def without_values(text: str) -> list[str]:
    """Return the lines with their ids, numbers and widths made equal."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    return [" ".join(re.sub(r"\d[\d,.]*", "N", line).split()) for line in text.splitlines() if line]


def test_the_routes_example_gives_the_rows_that_the_readme_shows(tmp_path: Path) -> None:
    simulate, query = read_marked_block("README.md", "simulate").splitlines()
    routes = read_marked_block("README.md", "routes")
    select = shlex.split(query)[-1]

    with running_whole_service(tmp_path, f"sqlite:///{tmp_path}/rapidbridge.db", routes) as service:
        sent = service.rapidbridge(*shlex.split(simulate)[1:])
        service.wait_until_settled()

    assert sent.returncode == 0, sent.stderr
    connection = sqlite3.connect(tmp_path / "rapidbridge.db")
    rows = connection.execute(select).fetchall()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert ["|".join(row) for row in rows] == read_marked_block("README.md", "simulate output").splitlines()
    assert {"contacts", "crm_accounts", "ticketing_tickets", "ticketing_comments"} <= tables


def test_the_demo_prints_the_lines_that_the_readme_shows(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "app.cli", "demo"],
        cwd=tmp_path,
        env=make_environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    shown = without_values(read_marked_block("README.md", "demo output"))
    assert without_values(ran.stdout)[-len(shown) :] == shown
