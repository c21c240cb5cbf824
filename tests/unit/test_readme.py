"""The README: its commands, its example and its length."""

import sqlite3
import tomllib

from app.config.routes_file import read_routes
from tests.support.documentation import PAGES, ROOT, read_marked_block

README = PAGES["README.md"]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = read_marked_block("README.md", "tests").strip()

    assert command.startswith("python3 -m venv")
    assert "sed -n '/<!-- tests -->/" in (ROOT / ".ci/run").read_text()


def test_the_readme_begins_with_the_demo_and_shows_its_output() -> None:
    first_screen = README.splitlines()[:35]

    assert "<!-- demo -->" in first_screen
    assert "<!-- demo output -->" in first_screen
    assert "rapidbridge demo" in read_marked_block("README.md", "demo")
    assert len(README.splitlines()) <= 150


def test_the_first_routes_example_is_short_and_valid() -> None:
    example = read_marked_block("README.md", "routes")

    routes = read_routes(example, source="README", variables={"DATABASE_URL": "sqlite:///x"})

    assert len([line for line in example.splitlines() if line]) <= 12
    assert [route.table for route in routes.routes] == ["contacts", ""]
    assert tomllib.loads(example)["sinks"]["main"]["url"] == "$DATABASE_URL"


def test_the_select_of_the_readme_is_valid_sql() -> None:
    select = read_marked_block("README.md", "simulate").partition('"')[2].rpartition('"')[0]
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE contacts (_key, name, data)")

    assert connection.execute(select).fetchall() == []
    connection.close()
