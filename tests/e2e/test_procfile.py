"""The Procfile run by honcho, with PostgreSQL and Valkey."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.checks.simulated_runs import compare_runs
from app.cli.local.ports import find_free_port
from app.database.engine import open_database
from app.simulator.plan import Plan
from app.simulator.session import simulate
from app.store.inbox import Inbox
from tests.support.processes import ROOT, Command
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, make_environment, read_procfile_command

pytestmark = pytest.mark.e2e


@pytest.fixture
def settings(postgres_url: str, redis_url: str) -> dict[str, str]:
    # Spelled as hosting platforms spell them.
    return {
        "DATABASE_URL": postgres_url.replace("postgresql://", "postgres://"),
        "REDIS_URL": redis_url,
        "PORT": str(find_free_port()),
        "TRUTO_WEBHOOK_SECRET": SECRET,
        "WEB_CONCURRENCY": "2",
    }


@pytest.fixture
def released(settings: dict[str, str]) -> None:
    line = read_procfile_command("release")
    ran = subprocess.run(
        line, cwd=ROOT, env=make_environment(**settings), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "updated from revision none" in ran.stdout


@pytest.fixture
def formation(tmp_path: Path, settings: dict[str, str], released: None) -> Iterator[Command]:
    # The Procfile names programs that are found in the PATH.
    programs = Path(sys.executable).parent
    variables = make_environment(**settings) | {"PATH": f"{programs}:{make_environment()['PATH']}"}
    line = ["honcho", "start", "web", "worker"]
    with Command(line, folder=tmp_path, environment=variables, cwd=ROOT) as command:

        def is_ready() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{settings['PORT']}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_ready, timeout_s=30, what=lambda: f"readiness\n{command.log}")
        yield command


def test_a_formation_writes_every_record(
    formation: Command, settings: dict[str, str], postgres_url: str
) -> None:
    plan = Plan(
        url=f"http://127.0.0.1:{settings['PORT']}/webhooks/truto",
        secret=SECRET,
        seed="procfile",
        records=4000,
        runs=4,
        accounts=2,
        parallel=4,
        duplicates=0.2,
        reordering=0.3,
        changes=0.1,
        record_errors=10,
        forged=6,
    )
    store = open_database(postgres_url)

    reports = simulate(plan, progress=lambda _: None)
    wait_until(
        lambda: not Inbox(store).count_by_state().get("pending"), timeout_s=60, what=lambda: formation.log
    )

    comparison = compare_runs(store, postgres_url, reports, duration_s=1.0)
    assert comparison.problems == []
    assert sum(counts.written for run in comparison.runs for counts in run.resources) == 4000
    assert comparison.compared_rows > 1000
    assert comparison.deliveries["unauthorized"] == 6
    assert "Traceback" not in formation.log
    assert SECRET not in formation.log
    assert "example.com" not in formation.log
    store.close()
