"""The accounts as workers, the monitor and the pages show them."""

import html
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import insert

from app.config.load import Config
from app.config.routes import Route, Routes
from app.config.settings import read_settings
from app.database.engine import Database, open_database
from app.store.accounts import Account, AccountFilter, Accounts
from app.store.delivery_filter import DeliveryFilter
from app.store.migrate import migrate
from app.store.replays import Replays
from app.store.schema import syncs
from app.store.sink_states import SinkStates
from app.store.webhook_events import WebhookEvents
from app.store.worker_registry import WorkerRecord, WorkerRegistry
from tests.support.dashboard import READ_PASSWORD, SETTINGS, DashboardClient
from tests.support.delivered_store import NOW, DeliveredStore
from tests.support.redis_keys import open_spool
from tests.support.replays import begin_replay
from tests.support.service import running_whole_service
from tests.support.summarized_store import SummarizedStore
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess
from workers.background.monitor import Monitor
from workers.delivery.processor import DeliveryProcessor

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}/../% é"
STATS = {"crm/contacts": {"list": {"fetched": 1}}, "hr/people": {"list": {"fetched": 2}}}


class Watched:
    """A store that a real worker delivers to, and a monitor with a clock that tests advance."""

    def __init__(self, url: str, folder: Path, redis: Redis) -> None:
        self.delivered = DeliveredStore(url, folder)
        self.store, self.now = self.delivered.store, NOW
        config = Config(read_settings({}), self.delivered.routes)
        self.monitor = Monitor(self.store, config, open_spool(redis, self.store), clock=lambda: self.now)

    def close(self) -> None:
        self.monitor.close()
        self.delivered.close()

    def advance(self, **span: float) -> None:
        self.now += timedelta(**span)
        self.monitor.run_once()

    def deliver_run(self, run: str) -> None:
        """Receive and deliver a run whose people match no route."""
        days_ago = (NOW - self.now) / timedelta(days=1)
        for name, event, payload in (
            (f"{run} 1", "started", {"id": run}),
            (f"{run} 2", "record", {"records": [{"id": "1"}]}),
            (f"{run} 3", "record", {"records": [{"id": "2"}, {"id": "3"}], "resource": "hr/people"}),
            (f"{run} 4", "completed", {"id": run, "resource_stats": STATS}),
        ):
            self.delivered.deliver(
                name, event, days_ago=days_ago, sync_job_run_id=run, sync_job_id="j", **payload
            )

    def get_account(self) -> Account:
        [account] = Accounts(self.store).list_accounts(AccountFilter(), now=self.now, limit=9)
        return account


@pytest.fixture
def watched(store_url: str, tmp_path: Path, redis: Redis) -> Iterator[Watched]:
    opened = Watched(store_url, tmp_path, redis)
    yield opened
    opened.close()


def test_an_incomplete_account_becomes_complete_after_a_replay(watched: Watched) -> None:
    watched.deliver_run("r")
    watched.advance(minutes=3)
    incomplete = watched.get_account()
    routes = Routes(sinks=watched.delivered.routes.sinks, routes=(Route(sinks=("main",)),))
    worker = DeliveryProcessor(watched.store, routes, watched.delivered.sinks, name="worker-2")
    replays = Replays(watched.store)
    unrouted = replays.find_candidates(DeliveryFilter(states=("unrouted",)), after=None, limit=9)

    assert replays.requeue(begin_replay(watched.store, now=watched.now), unrouted, sink="", now=watched.now)
    watched.advance(seconds=5)
    replayed = watched.get_account()
    worker.deliver([candidate.id for candidate in unrouted])
    watched.advance(seconds=5)
    watched.advance(seconds=5)

    assert (incomplete.state, incomplete.fetched, incomplete.written) == ("incomplete", 3, 1)
    assert incomplete.worst_sync.summary.gap_reasons == (("unrouted", 2),)
    assert (replayed.state, replayed.worst_sync.summary.verdict) == ("open", "settling")
    complete = watched.get_account()
    assert (complete.state, complete.fetched, complete.written) == ("complete", 3, 3)
    assert complete.newest_record_at == NOW


def test_an_hourly_sync_becomes_late_and_recovers(watched: Watched) -> None:
    for number in range(4):
        watched.deliver_run(f"r{number}")
        watched.advance(hours=1)
    on_time = watched.get_account().worst_sync

    watched.advance(hours=1, minutes=1)
    late = watched.get_account().worst_sync
    watched.deliver_run("r-new")
    watched.advance(minutes=3)

    assert (on_time.usual_interval_s, on_time.expected_at) == (3600, NOW + timedelta(hours=5))
    # Incomplete is worse than late.
    assert late.state == "incomplete"
    assert late.expected_at
    assert late.expected_at < watched.now
    assert watched.get_account().worst_sync.last_run_id == "r-new"


def test_two_monitors_write_the_same_summaries(watched: Watched, redis: Redis) -> None:
    config = Config(read_settings({}), watched.delivered.routes)
    other = Monitor(watched.store, config, open_spool(redis, watched.store), clock=lambda: watched.now)
    watched.deliver_run("r")

    for _ in range(3):
        watched.advance(minutes=3)
        before = watched.get_account()
        other.run_once()
        assert watched.get_account() == before
    other.close()


def test_a_simulated_run_is_shown_by_the_whole_service(tmp_path: Path) -> None:
    with running_whole_service(tmp_path, f"sqlite:///{tmp_path}/store.db", **SETTINGS) as service:
        service.rapidbridge("simulate", "--records", "200")
        with DashboardClient(service.webhook_url.removesuffix("/webhooks/truto")) as client:
            wait_until(
                lambda: "complete" in read_states(client.read("/")),
                timeout_s=60,
                what="the account to be complete on the page",
            )
            page = client.read("/")

    [row] = read_rows(page)
    assert row[4:8] == ["200", "200", "200", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("accounts")


@pytest.fixture(scope="module")
def page_store(folder: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{folder}/store.db")
    migrate(database)
    yield database
    database.close()


@pytest.fixture(scope="module")
def web(folder: Path, page_store: Database, redis_url: str) -> Iterator[WebProcess]:
    url = page_store.engine.url.render_as_string()
    with WebProcess(folder, database_url=url, redis_url=redis_url, **SETTINGS) as process:
        yield process


@pytest.fixture(scope="module")
def empty_page(web: WebProcess) -> str:
    with DashboardClient(web.url) as client:
        return client.read("/")


@pytest.fixture(scope="module")
def seeded(empty_page: str, page_store: Database) -> SummarizedStore:
    """120 complete accounts, one incomplete, one late and one with a hostile name."""
    assert empty_page
    seeded = SummarizedStore(page_store)
    seeded.now = datetime.now(UTC) - timedelta(hours=8)
    for number in range(4):
        seeded.add_run(f"late-{number}", account="late")
        seeded.advance(hours=1)
    seeded.now = datetime.now(UTC) - timedelta(minutes=30)
    for number in range(120):
        seeded.update_run(f"run-{number:03}", account=f"account-{number:03}", fetched=0)
    seeded.add_run("run-i", account="incomplete", fetched=1203)
    seeded.add_run("<b>run</b>/1", account=HOSTILE, job="<i>job</i>", environment="<u>env</u>")
    for _ in range(2):
        seeded.summarize()
    return seeded


@pytest.fixture
def client(web: WebProcess, seeded: SummarizedStore) -> Iterator[DashboardClient]:
    assert seeded
    with DashboardClient(web.url) as opened:
        yield opened


def read_rows(page: str) -> list[list[str]]:
    """Return the texts of the cells of a page's first table."""
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in body.split("</tr>")]
    return [
        [" ".join(html.unescape(re.sub("<[^>]+>", " ", cell)).split()) for cell in row] for row in rows if row
    ]


def read_states(page: str) -> list[str]:
    return [row[1].partition(" ")[2] for row in read_rows(page)]


def test_an_empty_page_shows_the_command_to_try(empty_page: str) -> None:
    assert "No run has arrived yet" in empty_page
    assert "<code>rapidbridge simulate --records 1000</code>" in empty_page


def test_the_incomplete_account_comes_first_with_its_reason(client: DashboardClient) -> None:
    page = client.read("/")

    rows = read_rows(page)
    assert len(rows) == 50
    assert rows[0][0] == "incomplete"
    assert rows[0][2] == "1,200 missing: no reason in the inbox or in Truto's log"
    assert rows[0][4:8] == ["1,203", "3", "3", "1,200"]
    assert rows[1][0] == "late"
    assert re.fullmatch(r"no new run for 5 h, usually every 1 h", rows[1][2])
    assert read_states(page)[:3] == ["incomplete", "late", "complete"]
    assert "All 123" in page
    assert "Incomplete 1<" in page


def test_the_first_line_tells_whether_workers_run_and_events_arrive(
    page_store: Database, client: DashboardClient
) -> None:
    now = datetime.now(UTC)
    workers, sinks = WorkerRegistry(page_store), SinkStates(page_store)
    assert "No worker is running" in client.read("/")

    workers.record_heartbeat(WorkerRecord("w", now, "{}", "d"), now=now)
    WebhookEvents(page_store).record({"hook": now - timedelta(hours=2)})
    sinks.pause("lake", by="a test", reason="", now=now)
    page = re.sub(r"<[^>]+>|\s+", " ", client.read("/"))
    sinks.resume("lake")

    assert "No worker is running" not in page
    assert re.search(r"1 worker \. +Newest event: +2 h ago", page.replace("worker.", "worker .")), page
    assert "Paused: lake." in page
    assert "Paused: lake." not in client.read("/")


def test_the_links_lead_through_every_account_once(client: DashboardClient) -> None:
    names, path = [], "/"
    while path:
        page = client.read(path)
        names += [row[0] for row in read_rows(page)]
        link = re.search(r'href="([^"]+)" rel="next"', page)
        path = html.unescape(link[1]) if link else ""

    assert len(names) == len(set(names)) == 123


def test_filters_are_kept_in_the_url(client: DashboardClient) -> None:
    page = client.read("/", q="account-11", state="complete")

    assert [row[0] for row in read_rows(page)] == [f"account-11{number}" for number in range(10)]
    assert 'name="q" value="account-11"' in page
    assert "All 10" in page
    nothing = client.read("/", q="nobody")
    assert "No account matches." in nothing
    assert "rapidbridge simulate" not in nothing


def test_hostile_names_stay_text(client: DashboardClient) -> None:
    page = client.read("/", q="<script>")
    link = re.search(r'href="(/accounts/[^"]+)"', page)
    assert link
    account_page = client.read(html.unescape(link[1]))

    for text in (page, account_page):
        assert "<script>alert" not in text
        assert html.unescape(text).count(HOSTILE) >= 1
    for hostile in ("<b>run", "<i>job", "<u>env"):
        assert hostile not in account_page
        assert html.escape(hostile) in account_page


def test_an_account_shows_its_syncs_and_runs(client: DashboardClient) -> None:
    page = client.read("/accounts/late")

    [sync] = read_rows(page)
    assert sync[0].startswith("job")
    assert sync[4].endswith("usually every 1 h")
    runs = read_rows(page.partition("<h2>Runs</h2>")[2])
    assert [run[0] for run in runs] == ["late-3", "late-2", "late-1", "late-0"]
    assert 'href="/runs/late-3"' in page


@pytest.mark.parametrize(
    ("path", "http_status"),
    [
        ("/accounts/nobody", 404),
        ("/?state=broken", 400),
        ("/?after=broken", 400),
        ("/?after=WyJsYXRlIiwgIm5vIHRpbWUiLCAiYSJd", 400),
        ("/accounts/late?after=broken", 400),
    ],
)
def test_a_wrong_link_is_explained(client: DashboardClient, path: str, http_status: int) -> None:
    response = client.get(path)

    assert response.status_code == http_status
    assert "Traceback" not in response.text
    assert 'role="alert"' in response.text


def test_the_pages_can_be_read_with_the_read_password(web: WebProcess, seeded: SummarizedStore) -> None:
    assert seeded
    with DashboardClient(web.url, password=READ_PASSWORD) as client:
        assert read_rows(client.read("/"))


def test_an_account_with_very_many_syncs_says_that_some_are_left_out(
    client: DashboardClient, seeded: SummarizedStore
) -> None:
    rows = [{"integrated_account_id": "account-000", "sync_job_id": f"job-{number}"} for number in range(50)]

    seeded.store.execute(insert(syncs), rows[:-1])
    whole = client.read("/accounts/account-000")
    seeded.store.execute(insert(syncs), rows[-1:])
    cut = client.read("/accounts/account-000")

    assert len(read_rows(whole)) == len(read_rows(cut)) == 50
    assert "only the 50" not in whole
    assert "only the 50 that need attention most" in cut
