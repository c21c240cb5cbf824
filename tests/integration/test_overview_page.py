"""The overview page: empty, with traffic and trouble, and without its servers."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis

from app.database.engine import Database, open_database
from app.store.migrate import migrate
from app.store.notifications import Notification, Notifications
from app.store.webhook_events import WebhookEvents
from app.store.worker_registry import WorkerRecord, WorkerRegistry
from tests.integration.test_http import event
from tests.integration.test_store_faults import migrate_store
from tests.support.dashboard import PASSWORD, SETTINGS, DashboardClient
from tests.support.postgres import PostgresServer
from tests.support.redis_keys import open_spool
from tests.support.valkey import ValkeyServer
from tests.support.waiting import measure_slowdown, wait_until
from tests.support.web_process import WebProcess

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


@pytest.fixture(scope="module")
def site(
    private_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory, redis_url: str
) -> Iterator[tuple[WebProcess, Database]]:
    folder: Path = tmp_path_factory.mktemp("overview")
    with private_postgres.database() as url:
        store = open_database(url)
        migrate(store)
        with WebProcess(folder, database_url=url, redis_url=redis_url, **SETTINGS) as web:
            yield web, store
        store.close()


def test_a_new_installation_shows_what_is_missing(site: tuple[WebProcess, Database], redis: Redis) -> None:
    web, _ = site
    with DashboardClient(web.url) as client:
        page = client.read("/overview")

    assert "No request has arrived in the last day." in page
    assert "rapidbridge simulate" in page
    assert "no worker is running; start: rapidbridge worker" in page
    assert "No condition is open." in page


def test_traffic_and_trouble_are_shown(site: tuple[WebProcess, Database], redis: Redis) -> None:
    web, store = site
    now = datetime.now(UTC)
    for number in range(7):
        assert web.post(event(id_=f"e{number}")).status == "accepted"
    for _ in range(3):
        assert web.post(b"{}", signature="format=sha256,v=" + "0" * 64).status == "unauthorized"
    assert web.post(b"not json").status == "quarantined"
    WorkerRegistry(store).record_heartbeat(WorkerRecord(HOSTILE, now, '{"version": "0.0.9"}', "d"), now=now)
    WebhookEvents(store).record({HOSTILE: now})
    Notifications(store).open(Notification("sink.failing", HOSTILE, "c", now, {"message": HOSTILE * 2}))
    redis.xadd(open_spool(redis, store).key, {"header": "x"})

    with DashboardClient(web.url) as client:
        wait_until(lambda: ">unauthorized<" in client.read("/overview").replace(" ", ""), what="counts")
        wait_until(lambda: "<svg" in client.read("/overview"), what="a chart")
        page, day = client.read("/overview"), client.read("/overview", period="day")

    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "Pending deliveries 7" in text
    assert "Failed deliveries 1" in text
    assert "Waiting in Redis 1" in text
    assert "the signature matches no secret in TRUTO_WEBHOOK_SECRET 3 3" in text
    assert "is of an unknown release" in text
    assert "A sink fails sink.failing 1" in text
    assert "Stored requests per minute" in text
    assert "Stored requests per 15 minutes" in day
    assert "at most 8 requests" in text
    # Everything hostile is text.
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(1)") == 5
    assert re.findall(r"<svg[^>]*><title>Stored", page.replace("\n", "").replace("  ", ""))


def test_an_unavailable_server_leaves_out_its_part(
    site: tuple[WebProcess, Database], private_postgres: PostgresServer, redis: Redis
) -> None:
    web, _ = site
    with DashboardClient(web.url) as client:
        private_postgres.stop()
        try:
            wait_until(lambda: "Not ready" in client.get("/overview").text, what="the failed check")
            page = client.read("/overview")
        finally:
            private_postgres.start()

    assert "the database in DATABASE_URL failed" in page
    assert "Deliveries that arrive meanwhile are kept in Redis" in page
    assert "Waiting in Redis" in page
    assert "Arrivals" not in page


def test_a_server_that_hangs_leaves_out_its_part_and_lets_people_sign_in(
    site: tuple[WebProcess, Database], private_postgres: PostgresServer, redis: Redis
) -> None:
    web, _ = site
    with private_postgres.stalled():
        began = time.monotonic()
        # The session of a person who signs in during the outage.
        with DashboardClient(web.url, password=None) as client:
            signed_in = client.http.post("/login", data={"password": PASSWORD})
            page = client.read("/overview")
        took_s = time.monotonic() - began

    assert signed_in.status_code == 303
    assert "action.sign_in" in web.log
    assert "sign_in.unrecorded" in web.log
    assert "The database did not answer within" in page
    assert "no answer within" in page
    assert "Waiting in Redis" in page
    assert took_s < 8 * measure_slowdown()


def test_the_page_is_served_without_redis(private_valkey: ValkeyServer, tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path}/store.db"
    migrate_store(database_url)
    with (
        WebProcess(tmp_path, database_url=database_url, redis_url=private_valkey.url, **SETTINGS) as web,
        DashboardClient(web.url) as client,
    ):
        private_valkey.stop()
        page = client.read("/overview")

    assert "Deliveries are stored, and processed later." in page
    assert "Pending deliveries" in page
