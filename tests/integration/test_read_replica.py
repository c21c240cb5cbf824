"""A read replica of the store: commands that only read show what was replicated."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from tests.support.commands import run_command
from tests.support.delivered_store import DeliveredStore
from tests.support.documentation import read_section
from tests.support.failover import PostgresPair
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment

COMMANDS = re.findall(
    r"`(?:rapidbridge )?(\w+ (?:list|export))`", read_section("docs/scaling.md", "Beyond one PostgreSQL")
)


@pytest.fixture(scope="module")
def replica_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yields the URL of a standby that has a run with dead records, and an unrouted page."""
    with ExitStack() as stack:
        # Not in pytest's folder, which the servers' user cannot read.
        pair = PostgresPair(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))))
        stack.callback(pair.stop)
        with pair.database() as url:
            delivered = DeliveredStore(url, tmp_path_factory.mktemp("replica"))
            delivered.add_run("acme", "run-1")
            delivered.close()
            url_of_replica = pair.standby.url(url.partition("@/")[2].partition("?")[0])
            wait_until(lambda: count_deliveries(url_of_replica) == 5, what="the replication")
            yield url_of_replica


def count_deliveries(url: str) -> int:
    try:
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT count(*) FROM rapidbridge_deliveries").fetchall()
    except psycopg.Error:
        # The database or the table has not been replicated yet.
        return 0
    return int(rows[0][0])


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_only_read_work_on_a_replica(replica_url: str, tmp_path: Path, command: str) -> None:
    environment = make_environment(DATABASE_URL=replica_url)
    options = [] if command.endswith("export") else ["--json"]

    ran = run_command(*command.split(), *options, cwd=tmp_path, environment=environment)

    # Failures are a problem that the command found.
    assert ran.returncode == (1 if command == "dead list" else 0), ran.stderr
    shown = ran.stdout if options else ran.stdout.splitlines()[0]
    assert json.loads(shown)
    assert {"runs list": "run-1", "deliveries list": "crm/contacts", "sinks list": "main"}.get(
        command, ""
    ) in shown


def test_the_page_names_the_commands_that_work_on_a_replica() -> None:
    assert sorted(COMMANDS) == [
        "dead list",
        "deliveries export",
        "deliveries list",
        "runs list",
        "sinks list",
    ]


def test_a_command_that_writes_names_the_replica_as_the_cause(replica_url: str, tmp_path: Path) -> None:
    environment = make_environment(DATABASE_URL=replica_url)

    ran = run_command("sinks", "pause", "main", "--reason", "x", cwd=tmp_path, environment=environment)

    assert ran.returncode == 3
    assert "standby" in ran.stderr
