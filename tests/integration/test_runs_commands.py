"""`rapidbridge runs` against the stand-in for Truto, which plays its runs meanwhile."""

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
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from app.cli.local.ports import find_free_port
from app.database.engine import open_database
from app.simulator.api import SimulatedApi
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from app.simulator.session import SimulationSession, simulate
from app.store.migrate import migrate
from app.store.models import RunUpdate
from app.store.runs import Runs
from tests.support.waiting import wait_until
from tests.support.web_process import ROOT, SECRET, WebProcess, make_environment

TOKEN = "a-token-that-is-never-shown"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


class RunningSimulation:
    """A play under way: its stage, its API's address, and what will have become of its runs."""

    def __init__(self) -> None:
        self.stage: SimulationSession | None = None
        self.url = ""
        self.reports: Future[list[RunReport]] = Future()

    def ids(self) -> list[str]:
        assert self.stage
        return [run.report.sync_job_run_id for run in self.stage.runs]

    def rapidbridge(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        variables = {"TRUTO_API_URL": self.url, "TRUTO_API_TOKEN": TOKEN, **settings}
        return subprocess.run(
            [sys.executable, "-m", "app.cli", "runs", *words],
            cwd=ROOT,
            env=make_environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


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
def playing(web: WebProcess, *, faults: tuple[int, ...] = (), runs: int = 2) -> Iterator[RunningSimulation]:
    play = RunningSimulation()
    url = f"{web.url}/webhooks/truto"
    # Long enough that a run which nobody stops is still there, short enough to wait for.
    plan = Plan(url, SECRET, "stop", records=60 * runs, batch_size=1, runs=runs, parallel=runs, pause_s=0.1)
    is_up = threading.Event()

    @contextmanager
    def beside(stage: SimulationSession) -> Iterator[None]:
        with SimulatedApi(stage, TOKEN, faults=faults) as api:
            play.stage, play.url = stage, api.url
            is_up.set()
            yield

    with ThreadPoolExecutor(1) as pool:
        play.reports = pool.submit(partial(simulate, plan, progress=lambda _: None, beside=beside))
        assert is_up.wait(10)
        wait_until(lambda: len(play.ids()) == runs, what="the runs to play")
        yield play


def test_a_run_is_stopped_and_the_others_go_on(web: WebProcess) -> None:
    with playing(web) as play:
        first, second = play.ids()

        stopped = play.rapidbridge("stop", first, "--yes", "--json")
        again = play.rapidbridge("stop", first, "--yes")
        reports = {report.sync_job_run_id: report for report in play.reports.result(60)}

    assert stopped.returncode == 0, stopped.stderr
    assert json.loads(stopped.stdout) == [
        {"sync_job_run_id": first, "is_stopped": True, "message": "", "status": "stopping"}
    ]
    assert again.returncode == 0, again.stderr
    assert reports[first].status == "stopped"
    assert sum(reports[first].fetched.values()) < 60
    assert reports[first].fetched == reports[first].persisted
    assert reports[second].status == "completed"
    assert sum(reports[second].persisted.values()) == 60


def test_what_cannot_be_stopped_is_named_and_the_rest_is_stopped(web: WebProcess) -> None:
    with playing(web, runs=1) as play:
        [run] = play.ids()

        stopped = play.rapidbridge("stop", UNKNOWN, run, "--yes")

    assert stopped.returncode == 1
    unknown, known = stopped.stdout.splitlines()
    assert unknown.startswith(f"{UNKNOWN}  unknown  Truto's API at 127.0.0.1 answered 404")
    assert known == f"{run}  stopping"
    assert [report.status for report in play.reports.result()] == ["stopped"]


def test_what_was_stopped_before_truto_went_away_is_told(web: WebProcess) -> None:
    # Looked at and stopped; then nothing but failures.
    with playing(web, faults=(0, 0, *[500] * 4)) as play:
        first, second = play.ids()

        stopped = play.rapidbridge("stop", first, second, "--yes", "--json")
        play.rapidbridge("stop", second, "--yes")

    assert stopped.returncode == 3
    assert [line["sync_job_run_id"] for line in json.loads(stopped.stdout)] == [first]
    assert "500" in stopped.stderr


def test_nothing_is_stopped_where_nobody_can_be_asked(web: WebProcess) -> None:
    with playing(web, runs=1) as play:
        refused = play.rapidbridge("stop", *play.ids())
        play.rapidbridge("stop", *play.ids(), "--yes")

    assert refused.returncode == 2
    assert "--yes" in refused.stderr


def test_on_a_terminal_it_shows_the_run_and_asks(web: WebProcess) -> None:
    with playing(web, runs=1) as play:
        [run] = play.ids()
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "runs", "stop", run],
            cwd=ROOT,
            env=make_environment(TRUTO_API_URL=play.url, TRUTO_API_TOKEN=TOKEN),
            stdin=theirs,
            stdout=subprocess.PIPE,
            text=True,
        )
        os.write(ours, b"n\n")
        said, _ = process.communicate(timeout=30)
        os.close(ours)
        os.close(theirs)
        play.rapidbridge("stop", run, "--yes")

    assert process.returncode == 1
    assert f"{run}  running, job " in said
    assert "Stop this run?" in said


def test_a_started_run_plays_for_the_account_that_was_named(web: WebProcess) -> None:
    account = "94801e49-a652-42f9-af14-dd203d7897da"
    with playing(web, runs=1) as play:
        assert play.stage
        job = play.stage.runs[0].report.sync_job_id

        started = play.rapidbridge("start", "--job", job, "--account", account, "--webhook", UNKNOWN)
        [_, new] = play.ids()
        play.rapidbridge("stop", *play.ids(), "--yes")
        reports = play.reports.result(60)

    assert started.returncode == 0, started.stderr
    assert started.stdout.strip() == new
    assert Counter(report.integrated_account_id for report in reports)[account] == 1


def test_a_start_that_truto_refuses_is_told(web: WebProcess) -> None:
    with playing(web, runs=1) as play:
        refused = play.rapidbridge("start", "--job", UNKNOWN, "--account", UNKNOWN, "--webhook", UNKNOWN)
        play.rapidbridge("stop", *play.ids(), "--yes")

    assert refused.returncode == 1
    assert "404" in refused.stderr


@pytest.mark.parametrize(
    ("words", "settings", "code", "hint"),
    [
        (("stop", "no-uuid", "--yes"), {}, 2, "UUID"),
        (("stop", UNKNOWN, "--yes"), {"TRUTO_API_TOKEN": ""}, 2, "TRUTO_API_TOKEN: not set"),
        (("stop", UNKNOWN, "--yes"), {"TRUTO_API_URL": "ftp://x"}, 2, "TRUTO_API_URL: not https://"),
        (("start", "--job", UNKNOWN), {}, 2, "--account"),
    ],
)
def test_wrong_usage_says_what_to_do(
    words: tuple[str, ...], settings: dict[str, str], code: int, hint: str
) -> None:
    ran = RunningSimulation().rapidbridge(*words, **({"TRUTO_API_URL": "http://127.0.0.1:1"} | settings))

    assert ran.returncode == code, ran.stderr
    assert hint in ran.stderr
    assert TOKEN not in ran.stdout + ran.stderr


def test_a_wrong_token_is_blamed(web: WebProcess) -> None:
    with playing(web, runs=1) as play:
        refused = play.rapidbridge("stop", *play.ids(), "--yes", TRUTO_API_TOKEN="another")
        play.rapidbridge("stop", *play.ids(), "--yes")

    assert refused.returncode == 1
    assert "TRUTO_API_TOKEN" in refused.stdout
    assert "another" not in refused.stdout


def test_a_truto_that_cannot_be_reached_is_exit_code_3() -> None:
    ran = RunningSimulation().rapidbridge(
        "stop", UNKNOWN, "--yes", TRUTO_API_URL=f"http://127.0.0.1:{find_free_port()}"
    )

    assert ran.returncode == 3
    assert "cannot be reached" in ran.stderr


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
def test_odd_words_end_without_a_traceback(tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_database(url)
    migrate(store)
    store.close()

    ran = RunningSimulation().rapidbridge(*words, DATABASE_URL=url, TRUTO_API_URL="http://127.0.0.1:1")

    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr


HOSTILE = "\x1b[31mEVIL\x1b[0m\nfake line\x1b]0;title\x07"


@pytest.mark.parametrize("words", [("list",), ("show", "{run}"), ("reconcile", "{run}"), ("watch", "{run}")])
def test_what_truto_calls_things_moves_no_cursor(tmp_path: Path, words: tuple[str, ...]) -> None:
    url, run = f"sqlite:///{tmp_path}/store.db", f"run {HOSTILE}"
    store = open_database(url)
    migrate(store)
    now = datetime.now(UTC)
    book = Runs(store)
    book.upsert(RunUpdate(run, HOSTILE, HOSTILE, "", now, HOSTILE, HOSTILE, now, 2, "{}", now, HOSTILE))
    store.close()

    ran = RunningSimulation().rapidbridge(
        *(word.format(run=run) for word in words), DATABASE_URL=url, TRUTO_API_TOKEN=""
    )

    assert "EVIL" in ran.stdout
    assert "\x1b" not in ran.stdout
    assert "\nfake line" not in ran.stdout


def test_an_id_may_be_spelt_in_any_way(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_database(url)
    migrate(store)
    Runs(store).upsert(RunUpdate(UNKNOWN, "job", "account", "", datetime.now(UTC)))
    store.close()

    ran = RunningSimulation().rapidbridge("show", UNKNOWN.replace("-", "").upper(), DATABASE_URL=url)

    assert ran.returncode == 0, ran.stderr


def test_a_truto_that_refuses_to_tell_is_no_good_news(web: WebProcess, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_database(url)
    migrate(store)
    now = datetime.now(UTC)
    Runs(store).upsert(RunUpdate(UNKNOWN, "job", "account", "", now, "", "completed", now, 2, "{}"))
    store.close()
    with playing(web, runs=1) as play:
        refused = play.rapidbridge("reconcile", UNKNOWN, DATABASE_URL=url, TRUTO_API_TOKEN="expired")
        play.rapidbridge("stop", *play.ids(), "--yes")
    away = play.rapidbridge("reconcile", UNKNOWN, DATABASE_URL=url, TRUTO_API_URL="http://127.0.0.1:1")

    assert (refused.returncode, away.returncode) == (1, 3)
    assert "TRUTO_API_TOKEN" in refused.stderr
    assert "completed, unknown" in refused.stdout
    assert "completed, unknown" in away.stdout


def test_who_only_looks_makes_no_database(tmp_path: Path) -> None:
    for words in (("list",), ("reconcile",)):
        ran = RunningSimulation().rapidbridge(*words, DATABASE_URL=f"sqlite:///{tmp_path}/typo/store.db")

        assert ran.returncode == 3
        assert "does not exist" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_token_that_is_none_is_a_complaint() -> None:
    ran = RunningSimulation().rapidbridge("stop", UNKNOWN, "--yes", TRUTO_API_TOKEN="tok\u20acen")

    assert ran.returncode == 2
    assert ran.stderr.startswith("TRUTO_API_TOKEN: it holds characters that no token has")
