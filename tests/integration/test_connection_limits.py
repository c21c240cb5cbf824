"""Too few connections to PostgreSQL: nothing is lost, nothing fails with 500, and the messages name the limit."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from app.simulator.plan import Plan
from app.simulator.session import simulate
from tests.support.dashboard import SETTINGS, DashboardClient
from tests.support.postgres import PostgresServer
from tests.support.service import running_whole_service
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET

ROLE = "limited"


@pytest.fixture(scope="module")
def small_postgres() -> Iterator[PostgresServer]:
    """A server with 22 connections for other roles than the superuser."""
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PostgresServer(Path(folder), options={"max_connections": "25"})
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN")
            connection.execute("CREATE ROLE other LOGIN")
        yield server
        server.stop()


@contextmanager
def limited_role(superuser: psycopg.Connection) -> Iterator[None]:
    superuser.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 2")
    end_sessions(superuser)
    yield
    superuser.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


@contextmanager
def full_server(superuser: psycopg.Connection) -> Iterator[None]:
    with ExitStack() as others:
        superuser.execute(f"ALTER ROLE {ROLE} NOLOGIN")
        end_sessions(superuser)
        try:
            while True:
                url = f"postgresql://other@/postgres?host={superuser.info.host}"
                others.enter_context(psycopg.connect(url))
        except psycopg.OperationalError:
            superuser.execute(f"ALTER ROLE {ROLE} LOGIN")
        yield


def end_sessions(superuser: psycopg.Connection) -> None:
    count = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = %s"
    wait_until(lambda: superuser.execute(count, [ROLE]).fetchone() == (0,), what="the end of all sessions")


@pytest.mark.parametrize("limited", [limited_role, full_server], ids=["of the role", "of the server"])
def test_too_few_connections_delay_deliveries_and_lose_none(
    small_postgres: PostgresServer,
    tmp_path: Path,
    limited: Callable[[psycopg.Connection], AbstractContextManager[None]],
) -> None:
    with (
        small_postgres.database() as superuser_url,
        psycopg.connect(superuser_url, autocommit=True) as superuser,
    ):
        superuser.execute(f"GRANT CREATE ON SCHEMA public TO {ROLE}")
        url = superuser_url.replace("postgres@", f"{ROLE}@")
        with running_whole_service(tmp_path, url, WEB_CONCURRENCY="1", **SETTINGS) as service:
            service.store.close()
            address = service.webhook_url.removesuffix("/webhooks/truto")
            with DashboardClient(address) as dashboard, limited(superuser):
                plan = Plan(url=service.webhook_url, secret=SECRET, seed="limit", records=200, batch_size=5)
                report = simulate(plan, progress=lambda _: None)[0]
                statuses = {dashboard.get(path).status_code for path in ("/readyz", "/metrics", "/", "/runs")}
                listed = service.rapidbridge("runs", "list")
            service.wait_until_settled()
            wait_until(lambda: is_ready(address), timeout_s=60, what="a ready receiver")
            results = json.loads(service.rapidbridge("doctor", "--json").stdout)["checks"]
        rows = superuser.execute("SELECT count(*) FROM crm_contacts").fetchone()
        log = (tmp_path / "rapidbridge.log").read_text()
        superuser.execute(f"DROP OWNED BY {ROLE}")

    assert not report.dropped + report.rejected_events
    assert set(report.response_counts) == {"accepted"}
    assert rows == (50,)
    assert statuses <= {200, 503}
    for text in (listed.stderr, log):
        message = " ".join(text.split())
        assert "no connection is free" in message
        assert "lower WEB_CONCURRENCY and WORKER_CONCURRENCY" in message
        assert "Traceback" not in message
    assert not {result["check"] for result in results if result["level"] == "fail"} - {"durability"}


def is_ready(address: str) -> bool:
    return httpx.get(f"{address}/readyz", timeout=20).status_code == 200
