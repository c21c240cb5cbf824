"""The pages of runs, through the real application."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis

from app.config.load import Config
from app.config.routes import Routes
from app.config.settings import read_settings
from app.database.engine import Database, open_database
from app.store.audit_log import AuditLog
from app.store.migrate import migrate
from app.store.models import DeliveryResult, DeliveryState, RunUpdate, StateChange, StoredRecordError
from app.store.results import DeliveryResults
from app.store.run_summaries import RunSummary, SummarizedRun, save_summaries
from app.store.runs import Runs
from app.truto.runs import status_rank
from app.web.dashboard.formatting import escape_invisible
from tests.integration.test_simulated_api import TOKEN, FinishedRuns, finished_runs
from tests.support.dashboard import READ_PASSWORD, SETTINGS, DashboardClient
from tests.support.delete_checks import build_check, save_check
from tests.support.fake_receiver import running_receiver
from tests.support.redis_keys import open_spool
from tests.support.seeded_store import NOW, SeededStore
from tests.support.web_process import WebProcess
from workers.background.monitor import Monitor

SCRIPT = "<script>alert(1)</script>"
HOSTILE_IDS = [
    "a/b c",
    "a/../../b",
    "/begins with a slash",
    "ends with a slash/",
    "a/stop",
    "x" * 500,
    f"{SCRIPT}\"'&",
    "%2e%2e?a=b#c",
    "two\nlines",
    "ünïcödé \u202e",
]


@dataclass
class Site:
    """A web process, its database, and the simulated API of Truto that workers call."""

    web: WebProcess
    database: Database
    url: str
    truto: FinishedRuns
    seeded: SeededStore = field(init=False)

    def __post_init__(self) -> None:
        self.seeded = SeededStore(self.database, self.url)

    def set_status(self, run: str, status: str, *, minute: int = 0, account: str = "account") -> None:
        at = NOW + timedelta(minutes=minute)
        stopped_at = at if status == "stopped" else None
        stats = '{"id": "r", "resource_stats": {"crm/contacts": {"list": {"fetched": 4}}}}'
        Runs(self.database).upsert(
            RunUpdate(
                run, "job", account, "env", at, "hook", status, at, status_rank(status), stats, stopped_at
            )
        )

    def count_actions(self) -> int:
        return len(
            [entry for entry in AuditLog(self.database).list_newest(limit=999) if entry.action == "run.stop"]
        )


@pytest.fixture(scope="module")
def truto() -> Iterator[FinishedRuns]:
    with running_receiver() as receiver, finished_runs(receiver, lost=0.3, endless=True) as finished:
        yield finished


@contextmanager
def open_site(folder: Path, redis_url: str, truto: FinishedRuns) -> Iterator[Site]:
    url = f"sqlite:///{folder}/inbox.db"
    database = open_database(url)
    migrate(database)
    settings = SETTINGS | {"TRUTO_API_TOKEN": TOKEN, "TRUTO_API_URL": truto.url}
    with WebProcess(folder, database_url=url, redis_url=redis_url, **settings) as web:
        yield Site(web, database, url, truto)
    database.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str, truto: FinishedRuns) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("runs"), redis_url, truto) as site:
        yield site


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[DashboardClient]:
    with DashboardClient(site.web.url) as client:
        yield client


def read_text(page: str) -> str:
    """Return the text of a page without its tags."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def page_path(run: str) -> str:
    return f"/runs/{quote(run, safe='')}"


def test_runs_are_listed_with_their_counts_and_reasons(site: Site, client: DashboardClient) -> None:
    site.set_status("listed", "completed", minute=1, account="a customer")
    stored = Runs(site.database).get("listed")
    assert stored
    gaps = (("given_up", 120), ("dead", 3))
    summary = RunSummary("incomplete", 1200, 1080, 1077, 3, 120, gap_records=123, gap_reasons=gaps)
    with site.database.transaction() as connection:
        save_summaries(connection, [SummarizedRun("listed", stored.revision, NOW, summary)], now=NOW)

    text = read_text(client.read("/runs", account="a customer"))

    assert "✕ incomplete" in text
    assert "1,200 1,080 1,077 3 120 0" in text
    assert "120 missing: Truto dropped their pages after all retries; 1 other reason" in text


def test_the_pages_of_a_long_list_show_every_run_once(site: Site, client: DashboardClient) -> None:
    for number in range(60):
        site.set_status(f"of many {number}", "completed", minute=number, account="many")

    first = client.read("/runs", account="many")
    match = re.search(r'href="([^"]+)" rel="next"', first)
    assert match
    second = client.read(unescape(match[1]))

    shown = [re.findall(r">(of many \d+)</a>", page) for page in (first, second)]
    assert [len(page) for page in shown] == [50, 10]
    assert len({run for page in shown for run in page}) == 60
    assert 'rel="next"' not in second


@pytest.mark.parametrize(
    ("parameters", "http_status", "message"),
    [
        ({"account": "nobody"}, 200, "No run matches these filters."),
        ({"run": "no such run"}, 200, "No run matches these filters."),
        ({"verdict": SCRIPT, "job": "'; --", "status": "unknown"}, 200, "No run matches these filters."),
        ({"since": "the other day"}, 400, "is not a time; write 90m"),
        ({"after": "x"}, 400, "Go back to its first page."),
        ({"after": "WyJ4IiwieSJd"}, 400, "Go back to its first page."),
    ],
)
def test_a_filter_that_matches_nothing_says_so(
    client: DashboardClient, parameters: dict[str, str], http_status: int, message: str
) -> None:
    response = client.get("/runs", **parameters)

    assert response.status_code == http_status
    assert message in read_text(response.text)
    assert SCRIPT not in response.text


def test_a_run_is_found_by_the_start_of_its_id(site: Site, client: DashboardClient) -> None:
    site.set_status("c0ffee00-1c44-4ae8-b2e2-f7b8bc0f6aa5", "running")

    page = client.read("/runs", run="C0FFEE")

    assert 'href="/runs/c0ffee00-1c44-4ae8-b2e2-f7b8bc0f6aa5"' in page


def test_the_page_of_a_run_explains_every_gap(site: Site, client: DashboardClient) -> None:
    site.set_status("gaps", "completed")
    delivery = site.seeded.put("pending", sync_job_run_id="gaps", event="sync_job_run:record_error")
    error = StoredRecordError(delivery, 0, "gaps", "crm/contacts", "list", 403, f"denied {SCRIPT}", "{}")
    change = StateChange(delivery, DeliveryState.SETTLED, 0, "", due_at=NOW)
    DeliveryResults(site.database).save([DeliveryResult(change, record_errors=[error])], now=NOW)
    site.seeded.put("unrouted", "no_route", sync_job_run_id="gaps", records=3)

    page = client.read("/runs/gaps")
    text = read_text(page)

    assert "incomplete records are missing, or not in every sink." in text
    assert "crm/contacts list 4 3 0 0 1 1" in text
    assert "3 unrouted: no route matches them; kept in the inbox. Next step: add a route" in text
    assert "rapidbridge runs reconcile gaps --refetch" in text
    assert "1 crm/contacts list 403 denied <script>alert(1)</script>" in text
    assert "first page received" in text
    assert "data-live" in page
    assert SCRIPT not in page


def test_the_page_of_a_run_shows_its_deletes_and_their_next_steps(
    site: Site, client: DashboardClient
) -> None:
    site.set_status("synced", "completed")
    held = build_check("synced", "over_share", resource=f"crm/contacts {SCRIPT}")
    save_check(site.database, held, live_rows=9, unseen_rows=8)
    save_check(site.database, build_check("synced", "incomplete", resource="crm/deals"))

    page = client.read("/runs/synced")
    with DashboardClient(site.web.url, password=READ_PASSWORD) as reader:
        read_only = reader.read("/runs/synced")

    assert "held back; more rows than max_deleted_share are gone (8 of 9 rows)" in read_text(page)
    assert f'action="/deletes/{held.id}/approve"' in page
    assert "for the gaps, run: rapidbridge runs show synced" in read_text(page)
    assert f"rapidbridge deletes approve {held.id}" in read_only
    assert SCRIPT not in page + read_only


def test_an_open_run_shows_its_progress(site: Site, client: DashboardClient) -> None:
    site.set_status("progress", "running")
    site.seeded.put(sync_job_run_id="progress", records=3)

    page = client.read("/runs/progress")

    assert '<progress max="4" value="3"' in page
    assert "3 of 4 records arrived" in read_text(page)


@pytest.mark.parametrize("run", HOSTILE_IDS, ids=range(len(HOSTILE_IDS)))
def test_a_run_with_any_id_is_linked_shown_and_stopped(site: Site, client: DashboardClient, run: str) -> None:
    site.set_status(run, "running", account="hostile/../ids")

    listed = client.read("/runs", run=run)
    page = client.read(page_path(run))
    stopped = client.post(f"{page_path(run)}/stop")

    # A browser resolves dots between slashes: the link has none.
    assert f'href="{page_path(run)}"' in listed
    shown = str(escape_invisible(run))
    assert shown.split() == unescape(re.search("<h1>Run (.*)</h1>", page, re.DOTALL)[1]).split()  # type: ignore[index]
    assert (stopped.status_code, stopped.headers["Location"]) == (303, page_path(run))
    assert "Stop requested: requested by an operator." in read_text(client.read(page_path(run)))
    assert "<script>alert" not in listed + page


@pytest.mark.parametrize("run", ["unknown", "y" * 500, "../../etc/passwd", SCRIPT])
def test_an_unknown_run_is_not_found(client: DashboardClient, run: str) -> None:
    for response in (client.get(page_path(run)), client.post(f"{page_path(run)}/stop")):
        assert response.status_code == 404
        assert (
            f"No event of run {run} was received." in read_text(response.text).replace("( 1 )", "(1)")
            or run == SCRIPT
        )
        assert SCRIPT not in response.text


def test_a_stop_goes_from_the_page_to_truto_and_back(
    truto: FinishedRuns, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    run = truto.run_id
    config = Config(read_settings({"TRUTO_API_TOKEN": TOKEN, "TRUTO_API_URL": truto.url}), Routes(sinks={}))

    with open_site(tmp_path, redis_url, truto) as site, DashboardClient(site.web.url) as client:
        spool = open_spool(redis, site.database)
        first, second = (Monitor(site.database, config, spool) for _ in range(2))

        def read_page() -> str:
            return read_text(client.read(f"/runs/{run}"))

        # A run without an event for minutes is asked for at Truto.
        minute = (datetime.now(UTC) - NOW) // timedelta(minutes=1)
        site.set_status(run, "running", minute=minute)
        responses = [client.post(f"/runs/{run}/stop") for _ in range(2)]
        requested = read_page()
        truto.faults.append(409)
        first.run_once()
        failed = read_page()
        # The first worker tries again after five minutes.
        for monitor in (second, first, second):
            monitor.run_once()
            monitor.close()
        sent = read_page()
        site.set_status(run, "stopped", minute=minute + 1)
        stopped = client.read(f"/runs/{run}")
        actions = site.count_actions()

    assert [response.status_code for response in responses] == [303, 303]
    assert actions == 1
    assert "Stop requested" in requested
    assert "stop requested (dashboard)" in requested
    assert "answered 409" in failed
    assert f"rapidbridge runs stop {run}" in failed
    assert "Truto accepted the stop" in sent
    assert "Stopped" in read_text(stopped)
    assert f"/runs/{run}/stop" not in stopped
    assert truto.requests.count(("DELETE", f"/sync-job-run/{run}")) == 2


def test_an_ended_run_has_no_stop(site: Site, client: DashboardClient) -> None:
    site.set_status("ended", "completed")
    before = site.count_actions()

    response = client.post("/runs/ended/stop")

    assert response.status_code == 303
    assert "/runs/ended/stop" not in client.read("/runs/ended")
    assert site.count_actions() == before
    assert Runs(site.database).get("ended").stop_reason == ""  # type: ignore[union-attr]


def test_a_read_only_session_cannot_stop(site: Site) -> None:
    site.set_status("read-only", "running")

    with DashboardClient(site.web.url, password=READ_PASSWORD) as reader:
        page = reader.read("/runs/read-only")
        response = reader.post("/runs/read-only/stop")

    assert "Stop run" not in page
    assert response.status_code == 403
    assert Runs(site.database).get("read-only").stop_reason == ""  # type: ignore[union-attr]


def test_without_a_token_the_button_names_the_setting(site: Site, redis_url: str, tmp_path: Path) -> None:
    site.set_status("no-token", "running")

    with (
        WebProcess(tmp_path, database_url=site.url, redis_url=redis_url, **SETTINGS) as web,
        DashboardClient(web.url) as client,
    ):
        page = client.read("/runs/no-token")
        response = client.post("/runs/no-token/stop")

    assert '<button class="danger" disabled>Stop run</button>' in page
    assert "Set TRUTO_API_TOKEN" in page
    assert response.status_code == 409
    assert "Set TRUTO_API_TOKEN" in response.text
    assert Runs(site.database).get("no-token").stop_reason == ""  # type: ignore[union-attr]


def test_the_start_of_an_id_shows_the_newest_runs_and_that_there_are_more(
    site: Site, client: DashboardClient
) -> None:
    ids = [f"abcd{number:04}-0000-4000-8000-000000000000" for number in range(51)]
    # The first of them is the newest one.
    for number, run in enumerate(ids):
        at = NOW - timedelta(days=1, minutes=number)
        Runs(site.database).upsert(RunUpdate(run, "job", "account", "", at))

    cut = client.read("/runs", run="abcd")
    whole = client.read("/runs", run="abcd004")

    assert [run for run in ids if run in cut] == ids[:50]
    assert "Enter more of the id" in cut
    assert [run for run in ids if run in whole] == ids[40:50]
    assert "Enter more of the id" not in whole
