"""The commands on docs/runs.md print the output that the page shows."""

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
from app.simulator.plan import Plan
from app.store.runs import Runs
from tests.support.processes import ROOT
from tests.support.redis_keys import open_spool
from tests.support.service import Service, running_whole_service
from tests.support.simulated_runs import TOKEN, SimulatedRuns
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, make_environment
from workers.background.monitor import Monitor

pytestmark = pytest.mark.e2e

PAGE = ROOT / "docs" / "runs.md"
BLOCK = re.compile(r"```console\n\$ (?P<command>[^\n]+)\n.*?```", re.DOTALL)
# Parts of the output that differ between two runs.
VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "2026-11-25 04:00:00"),
    (re.compile(r"\d\d-\d\d \d\d:\d\d(?= )"), "11-25 04:00"),
    (re.compile(r"seen \d+ s ago"), "seen 3 s ago"),
)


def replace_varying(text: str) -> str:
    for pattern, fixed in VARYING:
        text = pattern.sub(fixed, text)
    return text


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running_whole_service(tmp_path, f"sqlite:///{tmp_path}/rapidbridge.db") as whole_service:
        yield whole_service


def make_plan(service: Service, seed: str, **changes: object) -> Plan:
    resources = (("crm/contacts", "list"), ("crm/accounts", "list"))
    options = {"records": 3600, "runs": 3, "resources": resources, "first_backoff_s": 0.01, **changes}
    return Plan(url=service.webhook_url, secret=SECRET, seed=seed, **options)  # type: ignore[arg-type]  # any field


def reconcile_runs(service: Service, redis: Redis) -> None:
    """Run the monitor once, as if three minutes had passed."""
    service.wait_until_settled()
    settings = read_settings(service.settings)
    config = Config(settings, build_default_routes(settings.database_url))
    monitor = Monitor(
        service.store,
        config,
        open_spool(redis, service.store),
        clock=lambda: datetime.now(UTC) + timedelta(minutes=3),
    )
    monitor.run_once()
    monitor.close()
    assert not [run for run in Runs(service.store).list_unreconciled() if run.has_ended]


def run_on_a_terminal(command: list[str], settings: dict[str, str], folder: Path) -> str:
    """Return what a command prints on a terminal of 80 columns, without colours."""
    our_end, command_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", *command],
        cwd=folder,
        env=make_environment(**settings)
        | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "40", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=command_end,
        stderr=subprocess.DEVNULL,  # progress bars
    )
    os.close(command_end)
    output = b""
    while True:
        try:
            part = os.read(our_end, 65536)
        except OSError:  # the terminal has ended
            break
        if not part:
            break
        output += part
    os.close(our_end)
    process.wait()
    text = output.decode().replace("\r\n", "\n")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_every_command_of_the_page_prints_the_output_shown(
    service: Service, redis: Redis, tmp_path: Path
) -> None:
    page = PAGE.read_text()
    commands = [shlex.split(block["command"])[1:] for block in BLOCK.finditer(page)]
    with SimulatedRuns([make_plan(service, "night", lost=0.05, record_errors=5)]) as simulated:
        simulated.wait_for_reports()
        reconcile_runs(service, redis)
        printed = [run_on_a_terminal(command, service.settings, tmp_path) for command in commands[:4]]
    with SimulatedRuns(
        [make_plan(service, "day", records=9000, runs=1, parallel=2, pause_s=0.2)]
    ) as simulated:
        wait_until(lambda: len(simulated.sessions.runs) == 1, what="the run to play")
        api = {"TRUTO_API_URL": simulated.url, "TRUTO_API_TOKEN": TOKEN}
        printed += [run_on_a_terminal(command, service.settings | api, tmp_path) for command in commands[4:]]
        for run in simulated.sessions.runs:
            run.stop()
        simulated.wait_for_reports()

    outputs = iter(printed)
    filled = BLOCK.sub(
        lambda block: f"```console\n$ {block['command']}\n{replace_varying(next(outputs))}```", page
    )
    assert filled.splitlines() == page.splitlines()
