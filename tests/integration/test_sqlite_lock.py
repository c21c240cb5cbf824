"""A SQLite store that another program holds locked: reads, health checks and webhooks go on."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, update

from app.database.engine import Database, open_database
from app.errors import StoreUnavailable
from app.store.migrate import migrate
from app.store.schema import runs
from tests.integration.test_http import event
from tests.support.dashboard import SETTINGS, DashboardClient
from tests.support.web_process import WebProcess


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/inbox.db", lock_timeout_s=0.5)
    migrate(database)
    yield database
    database.close()


@contextmanager
def locked(database: Database) -> Iterator[sqlite3.Connection]:
    """Hold the write lock, as another program does."""
    assert database.engine.url.database
    with closing(
        sqlite3.connect(database.engine.url.database, isolation_level=None, check_same_thread=False)
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def test_a_read_does_not_wait_for_a_writer(store: Database) -> None:
    with locked(store):
        began = time.monotonic()
        assert store.read(select(runs)) == []
        with store.read_transaction() as connection:
            assert connection.execute(select(runs)).all() == []
        assert time.monotonic() - began < 0.3


def test_a_write_waits_for_a_writer_only_until_its_timeout(store: Database) -> None:
    change = update(runs).values(status="x")
    with locked(store) as writer:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="lock"):
            store.execute(change)
        # A change that returns rows is no read.
        with pytest.raises(StoreUnavailable, match="lock"):
            store.read(change.returning(runs.c.status))
        assert 0.9 < time.monotonic() - began < 3

        release = threading.Timer(0.2, writer.rollback)
        release.start()
        assert store.execute(change) == 0
        release.join()


def test_a_locked_store_stalls_neither_health_checks_nor_pages_nor_webhooks(
    store: Database, tmp_path: Path, redis_url: str
) -> None:
    url = store.engine.url.render_as_string()
    with (
        WebProcess(tmp_path, database_url=url, redis_url=redis_url, **SETTINGS) as web,
        DashboardClient(web.url) as client,
        locked(store),
    ):
        answers: list[str] = []
        senders = [
            threading.Thread(
                target=lambda number=number: answers.append(web.post(event(id_=f"e{number}")).status)
            )
            for number in range(4)
        ]
        for sender in senders:
            sender.start()
        waits = []
        while any(sender.is_alive() for sender in senders):
            began = time.monotonic()
            assert httpx.get(f"{web.url}/healthz", timeout=20).status_code == 200
            waits.append(time.monotonic() - began)
        assert answers == ["accepted"] * 4
        # The commit of the first delivery waits for its timeout, and nothing else waits with it.
        assert max(waits) < 1
        began = time.monotonic()
        assert "rapidbridge_store_up 1" in httpx.get(f"{web.url}/metrics", timeout=20).text
        assert client.get("/").status_code == 200
        assert client.get("/audit").status_code == 200
        assert time.monotonic() - began < 3
