"""The commands on docs/runs.md print what stands there."""

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis

from app.config.load import Config
from app.config.routes import build_default_routes
from app.config.settings import read_settings
from app.redis.spool import Spool
from app.simulator.plan import Plan
from app.store.runs import Runs
from tests.support.processes import ROOT
from tests.support.service import Service, running_whole_service
from tests.support.simulated_runs import TOKEN, SimulatedRuns
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, make_environment
from workers.background.monitor import Monitor

pytestmark = pytest.mark.e2e

PAGE = ROOT / "docs" / "runs.md"
BLOCK = re.compile(r"```console\n\$ (?P<command>[^\n]+)\n.*?```", re.DOTALL)
# What differs from one time to the next.
CHANGING = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "2026-11-25 04:00:00"),
    (re.compile(r"\d\d-\d\d \d\d:\d\d(?= )"), "11-25 04:00"),
    (re.compile(r"heard \d+ s ago"), "heard 3 s ago"),
)


def same(text: str) -> str:
    for pattern, instead in CHANGING:
        text = pattern.sub(instead, text)
    return text


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running_whole_service(tmp_path, f"sqlite:///{tmp_path}/rapidbridge.db") as made:
        yield made


def plan(service: Service, seed: str, **changes: object) -> Plan:
    resources = (("crm/contacts", "list"), ("crm/accounts", "list"))
    options = {"records": 3600, "runs": 3, "resources": resources, "first_backoff_s": 0.01, **changes}
    return Plan(url=service.webhook_url, secret=SECRET, seed=seed, **options)  # type: ignore[arg-type]  # any field


def settle(service: Service, redis: Redis) -> None:
    """Have the runs looked at as if a minute had passed."""
    service.wait_until_settled()
    settings = read_settings(service.settings)
    setup = Config(settings, build_default_routes(settings.database_url))
    overseer = Monitor(
        service.store, setup, Spool(redis), clock=lambda: datetime.now(UTC) + timedelta(minutes=1)
    )
    overseer.run_once()
    overseer.close()
    assert not [run for run in Runs(service.store).list_unreconciled() if run.has_ended]


def on_a_terminal(command: list[str], settings: dict[str, str], folder: Path) -> str:
    """Return what a command prints on a terminal of 80 columns, without colours."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", *command],
        cwd=folder,
        env=make_environment(**settings)
        | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "40", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,  # progress bars
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how a terminal ends
            break
        if not part:
            break
        said += part
    os.close(ours)
    process.wait()
    text = said.decode().replace("\r\n", "\n")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_every_command_of_the_page_prints_what_stands_there(
    service: Service, redis: Redis, tmp_path: Path
) -> None:
    page = PAGE.read_text()
    commands = [shlex.split(block["command"])[1:] for block in BLOCK.finditer(page)]
    with SimulatedRuns([plan(service, "night", lost=0.05, record_errors=5)]) as play:
        play.wait_for_reports()
        settle(service, redis)
        printed = [on_a_terminal(command, service.settings, tmp_path) for command in commands[:4]]
    with SimulatedRuns([plan(service, "day", records=9000, runs=1, parallel=2, pause_s=0.2)]) as play:
        wait_until(lambda: len(play.sessions.runs) == 1, what="the run to play")
        api = {"TRUTO_API_URL": play.url, "TRUTO_API_TOKEN": TOKEN}
        printed += [on_a_terminal(command, service.settings | api, tmp_path) for command in commands[4:]]
        for run in play.sessions.runs:
            run.stop()
        play.wait_for_reports()

    outputs = iter(printed)
    filled = BLOCK.sub(lambda block: f"```console\n$ {block['command']}\n{same(next(outputs))}```", page)
    assert filled.splitlines() == page.splitlines()
