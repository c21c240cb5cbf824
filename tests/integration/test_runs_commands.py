"""`rapidbridge runs` with a simulated Truto API and simulated runs in progress."""

import json
import os
import pty
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.cli.local.ports import find_free_port
from app.database.engine import open_database
from app.simulator.api import SimulatedApi
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from app.simulator.session import SimulationSession, simulate
from app.store.audit_log import AuditLog
from app.store.migrate import migrate
from app.store.models import RunUpdate
from app.store.runs import Runs
from tests.support.commands import run_command
from tests.support.documentation import read_marked_block
from tests.support.waiting import wait_until
from tests.support.web_process import ROOT, SECRET, WebProcess, make_environment

TOKEN = "a-token-that-is-never-shown"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


class RunningSimulation:
    """A simulation in progress: its session, the URL of its API, and its future reports."""

    def __init__(self) -> None:
        self.session: SimulationSession | None = None
        self.url = ""
        self.reports: Future[list[RunReport]] = Future()

    def ids(self) -> list[str]:
        assert self.session
        return [run.report.sync_job_run_id for run in self.session.runs]

    def rapidbridge(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        variables = {"TRUTO_API_URL": self.url, "TRUTO_API_TOKEN": TOKEN, **settings}
        return run_command("runs", *words, cwd=ROOT, environment=make_environment(**variables))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[WebProcess]:
    folder: Path = tmp_path_factory.mktemp("web")
    url = f"sqlite:///{folder}/inbox.db"
    store = open_database(url)
    migrate(store)
    store.close()
    with WebProcess(folder, database_url=url, redis_url=redis_url) as process:
        yield process


@contextmanager
def running_simulation(
    web: WebProcess, *, faults: tuple[int, ...] = (), runs: int = 2
) -> Iterator[RunningSimulation]:
    simulation = RunningSimulation()
    url = f"{web.url}/webhooks/truto"
    # Long enough to be stopped in progress, short enough to wait for its end.
    plan = Plan(url, SECRET, "stop", records=60 * runs, batch_size=1, runs=runs, parallel=runs, pause_s=0.1)
    is_up = threading.Event()

    @contextmanager
    def serve_api(session: SimulationSession) -> Iterator[None]:
        with SimulatedApi(session, TOKEN, faults=faults) as api:
            simulation.session, simulation.url = session, api.url
            is_up.set()
            yield

    with ThreadPoolExecutor(1) as pool:
        simulation.reports = pool.submit(
            partial(simulate, plan, progress=lambda _: None, session_context=serve_api)
        )
        assert is_up.wait(60)
        wait_until(lambda: len(simulation.ids()) == runs, what="the runs to simulation")
        yield simulation


def test_stop_ends_one_run_and_no_other(web: WebProcess) -> None:
    with running_simulation(web) as simulation:
        first, second = simulation.ids()

        stopped = simulation.rapidbridge("stop", first, "--yes", "--json")
        again = simulation.rapidbridge("stop", first, "--yes")
        reports = {report.sync_job_run_id: report for report in simulation.reports.result(60)}

    assert stopped.returncode == 0, stopped.stderr
    assert json.loads(stopped.stdout) == [
        {
            "sync_job_run_id": first,
            "is_stopped": True,
            "is_changed": True,
            "message": "",
            "status": "stopping",
        }
    ]
    assert again.returncode == 0, again.stderr
    assert reports[first].status == "stopped"
    assert sum(reports[first].fetched.values()) < 60
    assert reports[first].fetched == reports[first].persisted
    assert reports[second].status == "completed"
    assert sum(reports[second].persisted.values()) == 60


def test_stop_reports_an_unknown_run_and_stops_the_others(web: WebProcess) -> None:
    with running_simulation(web, runs=1) as simulation:
        [run] = simulation.ids()

        stopped = simulation.rapidbridge("stop", UNKNOWN, run, "--yes")

    assert stopped.returncode == 1
    unknown, known = stopped.stdout.splitlines()
    assert unknown.startswith(f"{UNKNOWN}  unknown  Truto's API at 127.0.0.1 answered 404")
    assert known == f"{run}  stopping"
    assert [report.status for report in simulation.reports.result()] == ["stopped"]


def test_stop_is_recorded_and_needs_no_database(web: WebProcess, tmp_path: Path) -> None:
    url, missing = f"sqlite:///{tmp_path}/store.db", f"sqlite:///{tmp_path}/missing.db"
    database = open_database(url)
    migrate(database)
    with running_simulation(web) as simulation:
        first, second = simulation.ids()

        simulation.rapidbridge("stop", UNKNOWN, first, "--yes", DATABASE_URL=url)
        unrecorded = simulation.rapidbridge("stop", second, "--yes", DATABASE_URL=missing)
    entries = AuditLog(database).list_newest(limit=9)
    database.close()

    assert [(entry.action, entry.subject) for entry in entries] == [("run.stop", first)]
    assert (unrecorded.returncode, unrecorded.stdout) == (0, f"{second}  stopping\n")
    assert "not recorded in the audit log" in unrecorded.stderr


def test_stop_prints_stopped_runs_if_truto_fails_afterwards(web: WebProcess) -> None:
    # Two requests succeed, all others fail.
    with running_simulation(web, faults=(0, 0, *[500] * 4)) as simulation:
        first, second = simulation.ids()

        stopped = simulation.rapidbridge("stop", first, second, "--yes", "--json")
        simulation.rapidbridge("stop", second, "--yes")

    assert stopped.returncode == 3
    assert [line["sync_job_run_id"] for line in json.loads(stopped.stdout)] == [first]
    assert "500" in stopped.stderr


def test_stop_without_a_terminal_needs_yes(web: WebProcess) -> None:
    with running_simulation(web, runs=1) as simulation:
        refused = simulation.rapidbridge("stop", *simulation.ids())
        simulation.rapidbridge("stop", *simulation.ids(), "--yes")

    assert refused.returncode == 2
    assert "--yes" in refused.stderr


def test_on_a_terminal_stop_shows_the_run_and_prompts(web: WebProcess) -> None:
    with running_simulation(web, runs=1) as simulation:
        [run] = simulation.ids()
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "runs", "stop", run],
            cwd=ROOT,
            env=make_environment(TRUTO_API_URL=simulation.url, TRUTO_API_TOKEN=TOKEN),
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.write(master, b"n\n")
        _, errors = process.communicate(timeout=30)
        os.close(master)
        os.close(slave)
        simulation.rapidbridge("stop", run, "--yes")

    assert process.returncode == 1
    assert f"{run}  running, job " in errors
    assert "Stop this run?" in errors


def test_start_starts_a_run_for_the_given_account(web: WebProcess) -> None:
    account = "94801e49-a652-42f9-af14-dd203d7897da"
    with running_simulation(web, runs=1) as simulation:
        assert simulation.session
        job = simulation.session.runs[0].report.sync_job_id

        started = simulation.rapidbridge("start", "--job", job, "--account", account, "--webhook", UNKNOWN)
        [_, new] = simulation.ids()
        simulation.rapidbridge("stop", *simulation.ids(), "--yes")
        reports = simulation.reports.result(60)

    assert started.returncode == 0, started.stderr
    assert started.stdout.strip() == new
    assert Counter(report.integrated_account_id for report in reports)[account] == 1


def test_a_start_that_truto_refuses_is_reported(web: WebProcess) -> None:
    with running_simulation(web, runs=1) as simulation:
        refused = simulation.rapidbridge(
            "start", "--job", UNKNOWN, "--account", UNKNOWN, "--webhook", UNKNOWN
        )
        simulation.rapidbridge("stop", *simulation.ids(), "--yes")

    assert refused.returncode == 1
    assert "404" in refused.stderr


@pytest.mark.parametrize(
    ("words", "settings", "code", "hint"),
    [
        (("stop", "no-uuid", "--yes"), {}, 2, "UUID"),
        (("stop", UNKNOWN, "--yes"), {"TRUTO_API_TOKEN": ""}, 2, "TRUTO_API_TOKEN: not set"),
        (
            ("stop", UNKNOWN, "--yes"),
            {"TRUTO_API_URL": "ftp://x"},
            2,
            "TRUTO_API_URL: does not start with https://",
        ),
        (("start", "--job", UNKNOWN), {}, 2, "--account"),
    ],
)
def test_wrong_usage_names_the_fault(
    words: tuple[str, ...], settings: dict[str, str], code: int, hint: str
) -> None:
    ran = RunningSimulation().rapidbridge(*words, **({"TRUTO_API_URL": "http://127.0.0.1:1"} | settings))

    assert ran.returncode == code, ran.stderr
    assert hint in ran.stderr
    assert TOKEN not in ran.stdout + ran.stderr


def test_a_wrong_token_is_reported_without_its_value(web: WebProcess) -> None:
    with running_simulation(web, runs=1) as simulation:
        refused = simulation.rapidbridge("stop", *simulation.ids(), "--yes", TRUTO_API_TOKEN="another")
        simulation.rapidbridge("stop", *simulation.ids(), "--yes")

    assert refused.returncode == 1
    assert "TRUTO_API_TOKEN" in refused.stdout
    assert "another" not in refused.stdout


def test_an_unreachable_truto_exits_with_3() -> None:
    ran = RunningSimulation().rapidbridge(
        "stop", UNKNOWN, "--yes", TRUTO_API_URL=f"http://127.0.0.1:{find_free_port()}"
    )

    assert ran.returncode == 3
    assert "cannot be reached" in ran.stderr


def test_watching_ends_if_there_is_no_run(tmp_path: Path, web: WebProcess) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_database(url)
    migrate(store)
    store.close()
    settings = {"DATABASE_URL": url, "TRUTO_API_TOKEN": ""}

    nothing = RunningSimulation().rapidbridge("watch", **settings)
    as_json = RunningSimulation().rapidbridge("watch", "--json", **settings)
    no_uuid = RunningSimulation().rapidbridge("watch", "nonexistent", **settings)
    unknown = RunningSimulation().rapidbridge("watch", UNKNOWN, **settings)
    with running_simulation(web, runs=1) as simulation:
        unknown_to_truto = simulation.rapidbridge("watch", UNKNOWN, "--interval", "0.1", DATABASE_URL=url)
        simulation.rapidbridge("stop", *simulation.ids(), "--yes")

    assert (nothing.returncode, nothing.stdout, as_json.returncode, as_json.stdout) == (0, "", 0, "")
    assert " ".join(nothing.stderr.split()).startswith(
        "No run in progress. To list the runs that have ended, run: "
    )
    for ran in (no_uuid, unknown, unknown_to_truto):
        assert ran.returncode == 1, ran.stderr
        assert "There is no run" in ran.stderr
    assert f"runs reconcile {UNKNOWN}" in unknown.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("list", "--since", "999999d"), 0),
        (("list", "--since", "nonsense"), 2),
        (("watch", "--interval", "nan"), 2),
        (("watch", "--interval", "1e300"), 2),
        (("show", "no-uuid"), 1),
        (("list", "--status", "unknown"), 0),
        (
            (
                "start",
                *("--job", UNKNOWN, "--account", UNKNOWN, "--webhook", UNKNOWN),
                "--arg",
                "a=" + "[" * 20000,
            ),
            3,
        ),
        (("start", *("--job", UNKNOWN, "--account", UNKNOWN, "--webhook", UNKNOWN), "--arg", "a=NaN"), 3),
    ],
)
def test_unusual_arguments_end_without_a_traceback(tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_database(url)
    migrate(store)
    store.close()

    ran = RunningSimulation().rapidbridge(*words, DATABASE_URL=url, TRUTO_API_URL="http://127.0.0.1:1")

    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("run_update", "head", "note"),
    [
        pytest.param({}, "unknown, not sent", "start, end (no lifecycle event arrived)", id="no event"),
        pytest.param(
            {"status": "running", "status_rank": 1, "events_to_send": ["started", "record"]},
            "running, not sent",
            "end, record errors (left out by events_to_send)",
            id="no end",
        ),
        pytest.param(
            {"status": "completed", "status_rank": 2, "events_to_send": ["completed"]},
            "completed, unknown",
            "start, records, record errors (left out by events_to_send)",
            id="no records",
        ),
    ],
)
def test_events_that_a_run_does_not_send_are_named(
    tmp_path: Path, run_update: dict[str, Any], head: str, note: str
) -> None:
    url, seen_at = f"sqlite:///{tmp_path}/store.db", datetime.now(UTC) - timedelta(minutes=5)
    store = open_database(url)
    migrate(store)
    update = RunUpdate(UNKNOWN, "job", "account", "", seen_at)
    if run_update:
        run_json = json.dumps({"id": UNKNOWN, "events_to_send": run_update.pop("events_to_send")})
        update = replace(update, status_at=seen_at, run=run_json, **run_update)
    Runs(store).upsert(update)
    store.close()
    simulation = RunningSimulation()

    shown = [
        simulation.rapidbridge(*words, DATABASE_URL=url, TRUTO_API_TOKEN="")
        for words in (("show", UNKNOWN), ("reconcile", UNKNOWN), ("list",))
    ]
    as_json = simulation.rapidbridge("show", UNKNOWN, "--json", DATABASE_URL=url, TRUTO_API_TOKEN="")

    if "end" in note and "start" not in note:
        assert read_marked_block("docs/runs.md", "not sent") in shown[0].stdout
    verdict = head.partition(", ")[2]
    assert [ran.returncode for ran in shown] == [0, 0, 0]
    assert all(
        f"{head}\n  job" in ran.stdout and f"  not sent    {note}\n" in ran.stdout for ran in shown[:2]
    )
    assert shown[2].stdout.rstrip().endswith(verdict)
    assert all(len(line) <= 80 for ran in shown for line in ran.stdout.splitlines())
    names = [name.replace(" ", "_") for name in note.partition(" (")[0].split(", ")]
    assert json.loads(as_json.stdout)["not_sent"] == names
    assert json.loads(as_json.stdout)["verdict"] == verdict.replace(" ", "_")


def test_records_in_flight_are_named_and_no_gap(tmp_path: Path) -> None:
    url, now = f"sqlite:///{tmp_path}/store.db", datetime.now(UTC)
    store = open_database(url)
    migrate(store)
    run_json = json.dumps({"id": UNKNOWN, "resource_stats": {"crm/contacts": {"list": {"fetched": 3}}}})
    Runs(store).upsert(RunUpdate(UNKNOWN, "job", "account", "", now, "", "completed", now, 2, run_json))
    store.close()

    ran = RunningSimulation().rapidbridge("reconcile", UNKNOWN, DATABASE_URL=url, TRUTO_API_TOKEN="")

    assert ran.returncode == 0
    assert "completed, settling" in ran.stdout
    assert "3 not arrived yet; missing if they do not arrive" in ran.stdout
    assert ran.stdout.endswith("1 run, 1 settling, 0 records missing, 3 in flight.\n")


HOSTILE = "\x1b[31mEVIL\x1b[0m\nfake line\x1b]0;title\x07"


@pytest.mark.parametrize("words", [("list",), ("show", "{run}"), ("reconcile", "{run}"), ("watch", "{run}")])
def test_hostile_names_do_not_control_the_terminal(tmp_path: Path, words: tuple[str, ...]) -> None:
    url, run = f"sqlite:///{tmp_path}/store.db", f"run {HOSTILE}"
    store = open_database(url)
    migrate(store)
    now = datetime.now(UTC)
    runs = Runs(store)
    runs.upsert(RunUpdate(run, HOSTILE, HOSTILE, "", now, HOSTILE, HOSTILE, now, 2, "{}", now, HOSTILE))
    store.close()

    ran = RunningSimulation().rapidbridge(
        *(word.format(run=run) for word in words), DATABASE_URL=url, TRUTO_API_TOKEN=""
    )

    assert "EVIL" in ran.stdout
    assert "\x1b" not in ran.stdout
    assert "\nfake line" not in ran.stdout


def test_a_run_id_is_accepted_in_any_spelling(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_database(url)
    migrate(store)
    Runs(store).upsert(RunUpdate(UNKNOWN, "job", "account", "", datetime.now(UTC)))
    store.close()

    ran = RunningSimulation().rapidbridge("show", UNKNOWN.replace("-", "").upper(), DATABASE_URL=url)

    assert ran.returncode == 0, ran.stderr


def test_reconcile_fails_if_truto_refuses_or_is_unreachable(web: WebProcess, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_database(url)
    migrate(store)
    now = datetime.now(UTC)
    Runs(store).upsert(RunUpdate(UNKNOWN, "job", "account", "", now, "", "completed", now, 2, "{}"))
    store.close()
    with running_simulation(web, runs=1) as simulation:
        refused = simulation.rapidbridge("reconcile", UNKNOWN, DATABASE_URL=url, TRUTO_API_TOKEN="expired")
        simulation.rapidbridge("stop", *simulation.ids(), "--yes")
    away = simulation.rapidbridge("reconcile", UNKNOWN, DATABASE_URL=url, TRUTO_API_URL="http://127.0.0.1:1")

    assert (refused.returncode, away.returncode) == (1, 3)
    assert "TRUTO_API_TOKEN" in refused.stderr
    assert "completed, unknown" in refused.stdout
    assert "completed, unknown" in away.stdout


def test_reading_commands_create_no_database(tmp_path: Path) -> None:
    for words in (("list",), ("reconcile",)):
        ran = RunningSimulation().rapidbridge(*words, DATABASE_URL=f"sqlite:///{tmp_path}/typo/store.db")

        assert ran.returncode == 3
        assert "does not exist" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_token_with_impossible_characters_is_a_config_error() -> None:
    ran = RunningSimulation().rapidbridge("stop", UNKNOWN, "--yes", TRUTO_API_TOKEN="tok\u20acen")

    assert ran.returncode == 2
    assert ran.stderr.startswith("TRUTO_API_TOKEN: contains characters that no token has")
