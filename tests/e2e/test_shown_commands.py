"""The commands of the README and of docs/ run against a whole service, block by block."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import update

from app.cli.local.ports import find_free_port
from app.simulator.api import SimulatedApi
from app.simulator.plan import Plan
from app.simulator.session import running_session
from app.simulator.variants import Variants
from app.store.delivery_filter import DeliveryFilter, find_deliveries
from app.store.operations import Operations
from app.store.schema import deliveries
from app.truto.signature import sign
from tests.support.documentation import CodeBlock, list_code_blocks
from tests.support.processes import Command
from tests.support.service import Service, running_whole_service
from tests.support.shell import list_lines, split_line
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, make_environment

pytestmark = pytest.mark.e2e

TOKEN = "a-token-that-is-never-shown"
ROUTES = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"
[sinks.lake]
type = "files"
url = "file://{folder}/lake"
max_file_age_s = 1
[[routes]]
resource = "crm/*"
sinks = ["main", "lake"]
[[routes]]
resource = "ticketing/*"
sinks = ["main"]
"""
# Commands that another test runs, or that need a platform, by page, by mark or by their first words.
RUN_ELSEWHERE = {
    "README.md demo": "tests/e2e/test_readme_example.py",
    "README.md simulate": "tests/e2e/test_readme_example.py",
    "README.md tests": ".ci/run",
    ".venv/bin/rapidbridge up": "tests/e2e/test_commands.py",
    "docs/runs.md": "tests/e2e/test_transcripts.py",
    "docs/databases.md": "tests/integration/test_redis_users.py",
    "docs/http.md": "tests/unit/test_docs.py",
    "docs/guarantees.md": "tests/chaos/test_soak.py",
    "docs/deployment.md": "needs a platform; tests/integration/test_deployment.py has the rest",
    "docs/logs.md": "installs packages; tests/integration/test_traces.py has the rest",
    "docs/sinks.md": "installs packages",
    "pip install": "installs packages",
    "CONTRIBUTING.md": "the tests themselves",
}
# Commands that ask, and would get no answer here.
ASKING = ("dead discard", "webhook probe", "prune --older-than 30d --archive", "erase")
# A part of the output of commands that end with 0, as their pages say; of all others only the code is checked.
OUTPUTS = {
    "dead discard --records": "1 dead record discarded",
    "dead discard --resource": "1 delivery discarded",
    "dead replay": "1 delivery replayed",
    "dead show": "too_deep",
    "deliveries list --run": " in total: ",
    "operations show": "finished",
    "prune --older-than 30d --archive": "Deleted the bodies of 3 deliveries",
    "replay --from": "3 pruned bodies restored",
    "routes suggest": "[routes.columns]",
    "support-bundle": "Wrote rapidbridge-support-",
}
# Commands that find a problem in this service, and end with 1, as their pages say.
PROBLEMS = {
    "dead list": "1 unrouted delivery of sandbox/x: no_route",
    "doctor": "The receiver accepted a test event, and a worker settled it.",
    "replay --all --sink lake": "1 of them with 1 dead record",
    "replay --since 30d --resource crm/contacts": "1 of them with 1 dead record",
    "runs reconcile": "Truto dropped their pages after all retries",
    "sinks list": "moving the database",
}
# Commands that run until Ctrl-C, and a part of their output.
ENDLESS = {
    "deliveries tail": "crm/contacts",
    "simulate": "runs until Ctrl-C",
    "webhook listen": "Ctrl-C",
}
# The ids and times in the examples.
RUN, DELIVERY = "1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5", "019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5"
OPERATION = "6349cea5-1998-4e14-a020-e1540fc374f7"
ACCOUNT, WEBHOOK = "5f3c2d61-8e14-4a0e-9d27-3f0b7c9a1e55", "3c1a5e2e-6d0b-4d5c-9a51-0f8a1c1a7f10"
FIRST_DAY, LAST_DAY = "2026-10-01", "2026-11-01"
AGE_OF_OLD_DELIVERIES = timedelta(days=40)


class Site:
    """A service with a run, dead records, failed and old deliveries, and a simulated Truto.

    values: the ids of this site, by those in the examples.
    """

    def __init__(self, service: Service, folder: Path, api: dict[str, str], values: dict[str, str]) -> None:
        self.service, self.folder, self.values = service, folder, values
        self.environment = make_environment(**service.settings, **api)
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{self.environment['PATH']}"
        self._api = api

    def fill_in(self, line: str) -> str:
        """Return a line of a page with the ids, times and folders of this site."""
        for shown, own in self.values.items():
            line = line.replace(shown, own)
        line = line.replace("/srv/archive", f"{self.folder}/archive").replace("dt=2026-10-*", "dt=*")
        if any(f"rapidbridge {words}" in line for words in ASKING):
            line = f"{line.partition('  #')[0]} --yes"
        return line.removeprefix(".venv/bin/")

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(line, comments=True)
        if words[0] == "rapidbridge" and not re.search("[|;&$]", line):
            return self.service.rapidbridge(*words[1:], **self._api)
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def interrupt(self, line: str, text: str, folder: Path) -> None:
        """Run a command until it has printed a text; send it Ctrl-C; fail if its code is not 0."""
        # `listen` is a receiver of its own.
        port = {"PORT": str(find_free_port())} if "listen" in line else {}
        words = shlex.split(line)[1:]
        with Command(
            ["app.cli", *words], folder=folder, environment=self.environment | port, cwd=self.folder
        ) as command:

            def has_printed() -> bool:
                if "tail" in line:
                    post(self.service, resource="crm/contacts", records=[])
                assert command.process.poll() is None, command.log
                return text in command.log

            wait_until(has_printed, interval_s=0.2, what=lambda: f"{text!r} in\n{command.log}")
            assert command.stop(signal.SIGINT) == 0, command.log
            assert "Traceback" not in command.log


def post(service: Service, **payload: Any) -> UUID:
    """Receive a page of records; return its id."""
    about = {"id": os.urandom(8).hex(), "created_at": datetime.now(UTC).isoformat()}
    body = json.dumps({**about, "event": "sync_job_run:record", "payload": {"method": "list", **payload}})
    # Nested too deep for Python's encoder and decoder.
    body = body.replace('"DEEP"', "[" * 100_000 + "]" * 100_000)
    headers = {"X-Truto-Signature": sign(body.encode(), SECRET)}
    answer = httpx.post(service.webhook_url, content=body, headers=headers).json()
    assert answer["status"] == "accepted", answer
    return UUID(answer["delivery"])


def change_deliveries(service: Service, ids: Sequence[UUID], **values: Any) -> None:
    """Set columns of deliveries."""
    with service.store.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id.in_(ids)).values(**values))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    routes = ROUTES.format(folder=folder)
    (folder / "new.toml").write_text(routes)
    (folder / "contact.json").write_text('{"id": "1", "name": "Ada"}')
    url = f"sqlite:///{folder}/rapidbridge.db"
    with ExitStack() as stack:
        service = stack.enter_context(running_whole_service(folder, url, routes, REDIS_URL=redis_url))
        plan = Plan(
            service.webhook_url,
            SECRET,
            seed="pages",
            records=200,
            runs=2,
            accounts=2,
            batch_size=10,
            lost=0.2,
            variants=Variants(test_retry="same_body"),
        )
        session = stack.enter_context(running_session(plan, progress=lambda _: None))
        session.finish()
        api = stack.enter_context(SimulatedApi(session, TOKEN))
        run = session.runs[0].describe()
        run_id, account = str(run["id"]), str(run["integrated_account_id"])
        source = {"sync_job_run_id": run_id, "integrated_account_id": account}
        dead = post(service, **source, resource="crm/contacts", records=[{"id": "1", "value": "DEEP"}])
        rerouted = post(service, **source, resource="crm/leads", records=[{"id": "1"}])
        post(service, **source, resource="sandbox/x", records=[{"id": "1"}])
        service.wait_until_settled()
        change_deliveries(service, [rerouted], state="unrouted", reason="no_route")
        comments = find_deliveries(service.store, DeliveryFilter(resource="ticketing/comments"))
        old = [delivery.id for delivery in islice(comments, 3)]
        change_deliveries(service, old, received_at=datetime.now(UTC) - AGE_OF_OLD_DELIVERIES)
        replayed = service.rapidbridge("replay", "--resource", "ticketing/tickets")
        assert replayed.returncode == 0, replayed.stderr
        [operation] = Operations(service.store).list_newest(limit=9)
        today = datetime.now(UTC)
        values = {
            RUN: run_id,
            DELIVERY: str(dead),
            OPERATION: str(operation.id),
            # Of another run: the other commands need the first one.
            ACCOUNT: str(session.runs[1].describe()["integrated_account_id"]),
            WEBHOOK: str(run["webhook_id"]),
            FIRST_DAY: f"{today - AGE_OF_OLD_DELIVERIES * 1.5:%Y-%m-%d}",
            LAST_DAY: f"{today - AGE_OF_OLD_DELIVERIES * 0.5:%Y-%m-%d}",
        }
        assert values[ACCOUNT] != account
        yield Site(service, folder, {"TRUTO_API_URL": api.url, "TRUTO_API_TOKEN": TOKEN}, values)


def list_own_lines(block: CodeBlock) -> list[str]:
    """Return the lines of a block that no other test runs."""
    if block.page in RUN_ELSEWHERE or f"{block.page} {block.mark}" in RUN_ELSEWHERE:
        return []
    lines = list_lines(block.text, is_console=block.language == "console")
    return [line for line in lines if not any(line.startswith(words) for words in RUN_ELSEWHERE)]


BLOCKS = [block for block in list_code_blocks("sh", "console") if list_own_lines(block)]


def find_entry(line: str, table: dict[str, str]) -> str:
    """Return the value of the first words of a `rapidbridge` command in a line; empty without one."""
    return next((value for words, value in table.items() if f"rapidbridge {words}" in line), "")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_the_commands_of_a_page_run_as_it_says(site: Site, block: CodeBlock, tmp_path: Path) -> None:
    for shown in list_own_lines(block):
        line = site.fill_in(shown)
        if text := find_entry(shown, ENDLESS):
            site.interrupt(line, text, tmp_path)
            continue
        if "operations cancel" in shown:
            cancel_a_replay(site, line, tmp_path)
            continue
        ran = site.run(line)
        problem = find_entry(shown, PROBLEMS)
        assert ran.returncode == (1 if problem else 0), f"{line}\n{ran.stdout}{ran.stderr}"
        assert (problem or find_entry(shown, OUTPUTS)) in ran.stdout + ran.stderr, line
        assert "Traceback" not in ran.stderr


def cancel_a_replay(site: Site, line: str, folder: Path) -> None:
    """Run a command that cancels an operation, with the id of a replay that takes hours."""
    words = ["app.cli", "replay", "--resource", "ticketing/*", "--rate", "0.001"]
    operations = Operations(site.service.store)
    with Command(words, folder=folder, environment=site.environment, cwd=site.folder) as replay:
        wait_until(lambda: bool(operations.list_unfinished()), what=lambda: replay.log)
        [unfinished] = operations.list_unfinished()
        ran = site.run(line.replace(site.values[OPERATION], str(unfinished.id)))
        replay.process.wait(30)
    # Those that the replay has requeued already.
    site.service.wait_until_settled()

    assert ran.returncode == 0, ran.stderr
    assert operations.list_unfinished() == []


def test_the_tables_of_this_module_name_commands_that_the_pages_show() -> None:
    lines = [line for block in BLOCKS for line in list_own_lines(block)]
    commands = [" ".join(command.words[1:]) for line in lines for command in split_line(line)]

    for table in (OUTPUTS, PROBLEMS, ENDLESS, ASKING):
        assert not [words for words in table if not any(each.startswith(words) for each in commands)]
