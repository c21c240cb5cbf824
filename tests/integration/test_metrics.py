"""GET /metrics: the requests of all web processes, the store and Redis, through every fault."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from redis import Redis

from app.config.operating_system import find_heartbeat_folder
from app.database.engine import open_database
from app.store.notifications import Notification, Notifications
from app.store.sink_states import SinkStates
from app.store.work_totals import WorkTotal, WorkTotals
from tests.integration.test_http import event
from tests.integration.test_store_faults import migrate_store
from tests.support.documentation import PAGES, ROOT, read_marked_block
from tests.support.postgres import PostgresServer
from tests.support.processes import Command, find_descendants
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess, make_environment

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(web: WebProcess) -> Samples:
    response = httpx.get(f"{web.url}/metrics", timeout=20)
    assert response.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(response.text)
        for sample in family.samples
    }


def wait_for(web: WebProcess, **expected: float) -> None:
    """Wait until a scrape shows all of these values of metrics without labels."""
    wait_for_all(web, {name: ({}, value) for name, value in expected.items()})


def wait_for_all(web: WebProcess, expected: dict[str, tuple[dict[str, str], float]]) -> None:
    """Wait until a scrape shows all of these labels and values, by name."""
    wanted = {
        (f"rapidbridge_{name}", frozenset(labels.items())): value
        for name, (labels, value) in expected.items()
    }
    different: Samples = {}

    def is_shown() -> bool:
        samples = scrape(web)
        different.clear()
        different.update({key: samples.get(key, -1) for key in wanted if samples.get(key) != wanted[key]})
        return not different

    # An idle worker reports its last numbers within 15 s.
    wait_until(is_shown, timeout_s=40, interval_s=0.2, what=lambda: f"{wanted}; these differ: {different}")


def find_folder(web: WebProcess) -> Path:
    """Return the folder of the files of a gunicorn: the one that its workers have open."""
    [worker, *_] = find_descendants(web.pid)
    targets = [file.readlink() for file in Path(f"/proc/{worker}/fd").iterdir()]
    [folder] = {target.parent for target in targets if "rapidbridge-metrics-" in str(target)}
    return folder


@contextmanager
def running_web(folder: Path, database_url: str, redis_url: str, **settings: str) -> Iterator[WebProcess]:
    """Start two web processes with an empty store."""
    migrate_store(database_url)
    settings = {"WEB_CONCURRENCY": "2", **settings}
    with WebProcess(folder, database_url=database_url, redis_url=redis_url, **settings) as web:
        yield web


def test_a_scrape_shows_the_requests_and_the_work_of_all_processes(
    store_url: str, redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    routes_file = tmp_path / "routes.toml"
    routes_file.write_text(
        '[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n'
        '[[routes]]\nsinks = ["main"]\ncolumns = { id = "boolean" }\n'
    )
    routes = {"ROUTES_FILE": str(routes_file)}
    settings = make_environment(DATABASE_URL=store_url, REDIS_URL=redis_url, **routes)
    with (
        running_web(tmp_path, store_url, redis_url, **routes) as web,
        Command(["app.cli", "worker"], folder=tmp_path, environment=settings),
    ):
        page = {"integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
        bodies = [event(id_=f"e{number}", records=[{"id": str(number)}], **page) for number in range(9)]
        for body in bodies:
            # A new connection each time, so that both processes get some.
            assert httpx.post(f"{web.url}/webhooks/truto", content=body).status_code == 401
            assert web.post(body).status == "accepted"
        assert web.post(b"not json").status == "quarantined"

        wait_for_all(
            web,
            {
                "webhook_requests_total": ({"status": "accepted", "cause": ""}, 9),
                "webhook_duration_seconds_count": ({}, 10),
                "webhook_body_bytes_total": ({}, sum(map(len, bodies)) + len(b"not json")),
                "commit_group_size_sum": ({}, 10),
                "deliveries_settled_total": ({"state": "settled"}, 9),
                "records_written_total": ({"sink": "main"}, 9),
                "misfit_values_total": ({"sink": "main"}, 9),
                "pending_deliveries": ({}, 0),
                "failed_deliveries": ({"state": "quarantined"}, 1),
                "workers": ({}, 1),
                "store_up": ({}, 1),
            },
        )
        samples = scrape(web)
        by_cause = {
            dict(labels).get("cause"): value
            for (name, labels), value in samples.items()
            if "unauthorized" in dict(labels).values()
        }
        assert (by_cause["missing"], by_cause["wrong"]) == (9, 0)
        assert not [labels for _, labels in samples if "account" in dict(labels)]
        assert samples["rapidbridge_sink_writes_total", frozenset({("sink", "main")})] > 0
        assert (
            "rapidbridge_webhook_last_event_timestamp_seconds",
            frozenset({("webhook_id", "w1")}),
        ) in samples


def test_killed_workers_leave_the_files_and_the_counters_as_they_are(
    redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    with running_web(tmp_path, f"sqlite:///{tmp_path}/store.db", redis_url) as web:
        folder = find_folder(web)
        files = sorted(folder.iterdir())
        for sent in (3, 6):
            kill_workers(web)
            for number in range(sent - 3, sent):
                post_until_answered(web, event(id_=f"e{number}"))
            wait_for(web, webhook_duration_seconds_count=sent, commit_group_size_sum=sent)
            wait_for_all(web, {"webhook_requests_total": ({"status": "accepted", "cause": ""}, sent)})
        assert sorted(folder.iterdir()) == files
        assert len(files) == 2 * 2 + 1

        # A reload starts new workers before it ends the old ones.
        old = find_descendants(web.pid)
        os.kill(web.pid, signal.SIGHUP)
        wait_until(lambda: not set(old) & set(find_descendants(web.pid)), what="a reload")
        wait_for(web, webhook_duration_seconds_count=6)
        assert len(list(folder.iterdir())) <= 2 * 4 + 1
        # Each file has its memory: a process that fills a hole in a full file system would be killed.
        assert all(file.stat().st_blocks * 512 >= file.stat().st_size for file in folder.iterdir())
    assert not folder.exists()


def kill_workers(web: WebProcess) -> None:
    """Kill both web processes; return when others have taken their place."""
    victims = find_descendants(web.pid)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(set(find_descendants(web.pid)) - set(victims)) == 2, what="new workers")


def post_until_answered(web: WebProcess, body: bytes) -> None:
    """Post a body; again if the connection was to a killed process."""

    def is_answered() -> bool:
        try:
            return web.post(body).status == "accepted"
        except httpx.TransportError:
            return False

    wait_until(is_answered, what="an answer")


def test_the_folder_of_a_killed_gunicorn_is_removed_at_the_next_start(redis_url: str, tmp_path: Path) -> None:
    parent = find_heartbeat_folder()
    assert parent is not None
    with running_web(tmp_path, f"sqlite:///{tmp_path}/store.db", redis_url) as web:
        folder = find_folder(web)
        with running_web(tmp_path, f"sqlite:///{tmp_path}/store.db", redis_url) as other:
            # Those of a running one stay.
            assert folder.exists()
            assert find_folder(other) != folder
        family = [web.pid, *find_descendants(web.pid)]
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        web.wait()
        assert folder.exists()
        with running_web(tmp_path, f"sqlite:///{tmp_path}/store.db", redis_url):
            assert not folder.exists()


def test_requests_are_counted_and_served_without_the_database(
    private_postgres: PostgresServer, redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    with private_postgres.database() as url, running_web(tmp_path, url, redis_url) as web:
        assert web.post(event(id_="before")).status == "accepted"
        wait_for(web, store_up=1)
        with private_postgres.stalled():
            assert web.post(event(id_="stalled")).status == "accepted"
            wait_for(web, store_up=0, scrape_errors=1, webhook_duration_seconds_count=2, spooled_deliveries=1)
            samples = scrape(web)
            assert ("rapidbridge_pending_deliveries", frozenset()) not in samples
        wait_for(web, store_up=1)


def fill_store(url: str) -> None:
    """Store what gives each metric with a label a value."""
    store, now = open_database(url), datetime.now(UTC)
    sink_totals = [total for total in WorkTotal if total != WorkTotal.DELIVERIES]
    WorkTotals(store).add({(total, "main"): 1 for total in sink_totals})
    Notifications(store).open(Notification("run.stalled", "r", "c", now, {}))
    SinkStates(store).record_writes({"main": now})
    SinkStates(store).pause("main", by="a test", reason="", now=now)
    store.close()


@pytest.fixture(scope="module")
def quiet_web(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """A web process with a store in which every metric has a value, for tests that only read."""
    folder = tmp_path_factory.mktemp("quiet")
    # Each process reads the store by itself, and its facts may be older than those of the other one.
    with running_web(folder, f"sqlite:///{folder}/store.db", redis_url, WEB_CONCURRENCY="1") as web:
        assert web.post(event(id_="e")).status == "accepted"
        fill_store(f"sqlite:///{folder}/store.db")
        wait_until(lambda: "_last_event_timestamp" in httpx.get(f"{web.url}/metrics").text)
        yield web


def test_the_format_is_negotiated(quiet_web: WebProcess) -> None:
    accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8,text/plain;q=0.5"

    openmetrics = httpx.get(f"{quiet_web.url}/metrics", headers={"Accept": accept})
    text = httpx.get(f"{quiet_web.url}/metrics", headers={"Accept": "*/*"})

    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    parsed = parse_openmetrics(openmetrics.text)  # type: ignore[no-untyped-call]  # its own
    assert {family.name for family in parsed} == {family.name for family in parse_text(text.text)}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_the_metrics_follow_the_conventions_of_prometheus(quiet_web: WebProcess) -> None:
    text = httpx.get(f"{quiet_web.url}/metrics").text

    ran = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def read_documented(mark: str) -> dict[str, tuple[str, set[str]]]:
    """Return the type and the labels of the metrics in a table of docs/metrics.md, by name."""
    table = PAGES["docs/metrics.md"].partition(f"<!-- metrics: {mark} -->\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|(.*?)\| .* \|$", table, re.MULTILINE)
    return {name: (type_, set(re.findall(r"`(\w+)`", labels))) for name, type_, labels in rows}


def test_every_metric_is_documented_with_its_type_and_labels(quiet_web: WebProcess) -> None:
    shown = {
        sample.name.removesuffix("_count"): (family.type, set(sample.labels))
        for family in parse_text(httpx.get(f"{quiet_web.url}/metrics").text)
        for sample in family.samples
        if family.type != "histogram" or sample.name.endswith("_count")
    }

    assert read_documented("requests") | read_documented("service") == shown


def test_the_alerts_the_dashboard_and_the_autoscaling_use_metrics_that_exist(quiet_web: WebProcess) -> None:
    known = {
        sample.name
        for family in parse_text(httpx.get(f"{quiet_web.url}/metrics").text)
        for sample in family.samples
    }
    dashboard = json.loads((ROOT / "docs/grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = (ROOT / "docs/alerts.yml").read_text()
    alerts = re.findall(r"expr: (.*?)\n +(?:for|labels):", rules, re.DOTALL)

    autoscaling = read_marked_block("docs/scaling.md", "autoscaling")
    # Its prose names metrics too.
    named = set(re.findall(r"`(rapidbridge_\w+)`", PAGES["docs/scaling.md"]))

    assert len(queries) > 20
    assert len(alerts) == rules.count("- alert:") == 22
    for query in (*queries, *alerts, autoscaling):
        assert set(re.findall(r"rapidbridge_\w+", query)) <= known, query
    assert {name for name in named if name not in known and f"{name}_count" not in known} == set()
