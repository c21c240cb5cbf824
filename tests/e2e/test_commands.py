"""The commands as users run them."""

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cli.local.ports import find_free_port
from tests.support.dashboard import DashboardClient
from tests.support.processes import ROOT, Command, find_descendants
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment

pytestmark = pytest.mark.e2e


def run(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=folder,
        env=make_environment(**settings) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_demo_writes_every_record(tmp_path: Path) -> None:
    # An invalid .env and the user's database have no effect on the demo.
    (tmp_path / ".env").write_text("PORT=nonsense\nTRUTO_WEBHOOK_SECRETS=x\n")
    (tmp_path / "routes.toml").write_text("broken")

    ran = run(tmp_path, "demo", "--records", "600", "--json", DATABASE_URL="postgres://do-not-touch/x")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    assert report["ok"] is True
    assert [run["status"] for run in report["runs"]].count("stopped") == 1
    lines = [line for run in report["runs"] for line in run["resources"]]
    assert {line["resource"] for line in lines} > {"ticketing/tickets", "ticketing/comments"}
    assert all(line["fetched"] == line["arrived"] == line["written"] > 0 for line in lines)
    assert all(line["missing"] == line["dead"] == 0 for line in lines)
    assert set(report["deliveries"]) == {"accepted", "duplicate", "quarantined", "refused", "unauthorized"}
    assert report["deliveries"]["unauthorized"] == 9
    assert sum(run["record_errors"] for run in report["runs"]) == 49
    assert not (tmp_path / "var").exists()


def test_the_demo_prints_a_table_for_every_run(tmp_path: Path) -> None:
    ran = run(tmp_path, "demo", "--records", "60")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("fetched") == 5
    assert "Nothing is missing" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80


def test_up_refuses_a_port_that_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])

        ran = run(tmp_path, "up", PORT=port)

    assert ran.returncode == 2
    assert f"PORT: {port} is not available" in ran.stderr
    assert "is up" not in ran.stdout


def test_up_creates_a_password_to_act_with_beside_a_read_only_one(tmp_path: Path) -> None:
    settings = make_environment(PORT=str(find_free_port()), DASHBOARD_READ_PASSWORD="only for reading")

    with Command(["app.cli", "up"], folder=tmp_path, environment=settings) as up:
        up.wait_for("RapidBridge receiver is up")
        password = (tmp_path / "var" / "dashboard-password").read_text().strip()
        assert f"{password} (for development only)" in up.log
        with DashboardClient(f"http://127.0.0.1:{settings['PORT']}", password=password) as client:
            assert "may change" in client.read("/audit")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_receives_until_a_signal_stops_it(tmp_path: Path, number: int) -> None:
    port = find_free_port()
    settings = make_environment(PORT=str(port))

    with Command(["app.cli", "up"], folder=tmp_path, environment=settings) as up:
        up.wait_for("RapidBridge receiver is up")
        url = f"http://127.0.0.1:{port}"
        assert f"{url}/webhooks/truto" in up.log
        assert f"PORT={port} {sys.executable} -m app.cli simulate --records 1000" in up.log
        # The web server answers at once; the worker may need a moment longer.
        wait_until(
            lambda: httpx.get(f"{url}/readyz").json()["status"] == "ok", what=lambda: f"readiness\n{up.log}"
        )
        # The directory holds a secret and customers' data.
        assert (tmp_path / "var").stat().st_mode & 0o777 == 0o700
        # The development secret is read by `simulate` in the same folder.
        sent = run(tmp_path, "simulate", "--records", "300", "--json", PORT=str(port))
        assert sent.returncode == 0, sent.stderr
        assert json.loads(sent.stdout)["runs"][0]["status"] == "completed"
        wait_until(lambda: up.log.count("delivery.settled") == up.log.count("delivery.accepted"))
        family = find_descendants(up.pid)
        assert len(family) >= 5
        assert up.stop(number) == 0
        assert "Stopped." in up.log
        assert "Traceback" not in up.log

    with Command(["app.cli", "up"], folder=tmp_path, environment=settings) as again:
        again.wait_for("RapidBridge receiver is up")


def test_an_account_is_erased_while_up_runs_in_the_same_folder(tmp_path: Path) -> None:
    port = find_free_port()
    settings = {"PORT": str(port)}
    with Command(["app.cli", "up"], folder=tmp_path, environment=make_environment(**settings)) as up:
        up.wait_for("RapidBridge receiver is up")
        sent = run(tmp_path, "simulate", "--records", "200", "--json", **settings)
        account = json.loads(sent.stdout)["runs"][0]["integrated_account_id"]
        wait_until(lambda: up.log.count("delivery.settled") == up.log.count("delivery.accepted"))

        erased = run(tmp_path, "erase", "--account", account, "--yes", "--json")
        other_url = f"sqlite:///{tmp_path}/other.db"
        run(tmp_path, "migrate", DATABASE_URL=other_url)
        other = run(tmp_path, "erase", "--account", account, "--yes", "--json", DATABASE_URL=other_url)
        url_file = tmp_path / "var" / "valkey-url"
        assert url_file.stat().st_mode & 0o777 == 0o600
        assert up.stop() == 0
    stopped = run(tmp_path, "erase", "--account", account, "--yes", "--json")
    url_file.write_text(f"unix://{tmp_path}/gone.sock")
    after_a_kill = run(tmp_path, "erase", "--account", account, "--yes", "--json")

    assert erased.returncode == 0, erased.stdout + erased.stderr
    report = json.loads(erased.stdout)
    assert (report["unreached"], report["erased"]["spool"]) == ({}, 0)
    assert report["erased"]["sink main"] == 200
    for ran in (other, stopped, after_a_kill):
        assert ran.returncode == 1
        assert json.loads(ran.stdout)["unreached"].keys() == {"spool"}
        assert "app.cli up` runs in this folder" in " ".join(ran.stderr.split())


def test_refetch_can_be_tried_while_the_simulated_api_is_kept(tmp_path: Path) -> None:
    settings = {"PORT": str(find_free_port())}
    environment = make_environment(**settings)
    simulation_folder = tmp_path / "simulation"
    simulation_folder.mkdir()
    words = ["app.cli", "simulate", "--records", "400", "--batch-size", "20", "--lost", "0.5", "--keep-api"]
    with Command(["app.cli", "up"], folder=tmp_path, environment=environment) as up:
        up.wait_for("RapidBridge receiver is up")
        with Command(words, folder=simulation_folder, environment=environment, cwd=tmp_path) as simulation:
            simulation.wait_for("runs until Ctrl-C")
            exported = re.search(r"^export (.+)$", simulation.log, re.MULTILINE)
            assert exported, simulation.log
            api = dict(pair.split("=") for pair in exported[1].split()) | settings
            refetched = run(tmp_path, "runs", "reconcile", "--refetch", "--yes", **api)
            watched = run(tmp_path, "runs", "watch", **api)
            runs = json.loads(run(tmp_path, "runs", "list", "--json", **settings).stdout)["runs"]
            assert simulation.stop(signal.SIGINT) == 0
        assert up.stop() == 0

    assert refetched.returncode == 1
    assert "fetched again by run" in refetched.stderr
    assert [run["verdict"] for run in runs] == ["complete", "incomplete"]
    # Both runs were watched to their end.
    assert watched.returncode == 1, watched.stderr
    assert {line.partition(" ")[0] for line in watched.stdout.splitlines()} == {
        run["sync_job_run_id"] for run in runs
    }
    assert f"\n{sys.executable} -m app.cli runs reconcile --refetch\n" in simulation.log
    assert simulation.log.endswith("Stopped.\n")


def test_killing_up_leaves_no_process_behind(tmp_path: Path) -> None:
    with Command(
        ["app.cli", "up"], folder=tmp_path, environment=make_environment(PORT=str(find_free_port()))
    ) as up:
        up.wait_for("RapidBridge receiver is up")

        assert up.stop(signal.SIGKILL) == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    # tmp_path is too long for the path of a socket.
    with tempfile.TemporaryDirectory(prefix="rb-") as scratch:
        settings = make_environment() | {"TMPDIR": scratch}
        words = ["app.cli", "demo", "--records", "1000000"]
        with Command(words, folder=tmp_path, environment=settings) as demo:
            wait_until(lambda: bool(list(Path(scratch).glob("*/rapidbridge.db-wal"))), what=lambda: demo.log)
            wait_until(lambda: len(find_descendants(demo.pid)) >= 6, what=lambda: demo.log)

            assert demo.stop(number) in (1, 143)

        assert list(Path(scratch).iterdir()) == []
        assert "Traceback" not in demo.log


def test_all_invalid_settings_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "routes.toml").write_text('[sinks.a]\ntype = "sqk"\n[[routes]]\nsinks = ["b"]\n')
    settings = {
        "PORT": "high",
        "MAX_BODY_BYTES": "-1",
        "TRUTO_WEBHOOK_SECRETS": "x",
        "DATABASE_URL": "mysql://u:pass@h/d",
    }

    ran = run(tmp_path, "up", **settings)

    assert ran.returncode == 2
    # A long problem continues on indented lines.
    problems = [line for line in ran.stderr.splitlines() if not line.startswith(" ")]
    names = [line.partition(":")[0] for line in problems]
    assert names == ["TRUTO_WEBHOOK_SECRETS", "DATABASE_URL", "PORT", "MAX_BODY_BYTES", "routes.toml"]
    assert "pass" not in ran.stderr
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize("line", ["web", "worker"])
def test_processes_refuse_incomplete_settings(tmp_path: Path, line: str) -> None:
    words = {
        "web": ["gunicorn", "--config", str(ROOT / "app/web/gunicorn_conf.py"), "app.web.wsgi:app"],
        "worker": ["app.cli", "worker"],
    }[line]

    ran = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=tmp_path,
        env=make_environment(DYNO="x.1") | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    names = set(re.findall(r"^([A-Z_]+):", ran.stderr, re.MULTILINE))
    assert names == {"REDIS_URL", "DATABASE_URL"} | ({"TRUTO_WEBHOOK_SECRET"} if line == "web" else set())


def test_an_unreachable_service_exits_with_3(tmp_path: Path) -> None:
    nowhere = f"postgresql://x@/x?host={tmp_path}"

    migrated = run(tmp_path, "migrate", DATABASE_URL=nowhere)
    up = run(tmp_path, "up", REDIS_URL=f"unix://{tmp_path}/none.sock")
    sent = run(
        tmp_path, "simulate", "--records", "1", "--secret", "x", "--url", "http://127.0.0.1:9/webhooks/truto"
    )

    assert (migrated.returncode, up.returncode, sent.returncode) == (3, 3, 3)
    assert "DATABASE_URL" in migrated.stderr
    assert "REDIS_URL" in up.stderr
    assert "app.cli up" in sent.stderr
    assert "Traceback" not in migrated.stderr + up.stderr + sent.stderr
