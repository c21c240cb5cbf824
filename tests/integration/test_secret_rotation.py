"""Rotation of a webhook's secret: no delivery is refused, and none is lost."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from redis import Redis

from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.truto.signature import sign
from tests.support.commands import run_command
from tests.support.processes import Command
from tests.support.redis_keys import namespace_of, open_spool
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess

OLD, NEW = "0b6ad2b7-5cf4-4b19-9d0e-5d9e7ad0a4a1", "5b1c9a55-0b1f-4c39-bb3f-1f0f0d6f9f0e"
OLD_ENTRY, NEW_ENTRY = f"w-old={OLD}", f"w-new={NEW}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/inbox.db")
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def web(tmp_path: Path, store: Database, redis_url: str, redis: Redis) -> Iterator[WebProcess]:
    url = store.engine.url.render_as_string()
    with WebProcess(
        tmp_path, database_url=url, redis_url=redis_url, TRUTO_WEBHOOK_SECRET=OLD_ENTRY
    ) as process:
        yield process


def restart(web: WebProcess, secrets: str) -> None:
    """Restart with other secrets, as a deployment does."""
    web.terminate()
    web.wait()
    web.environment["TRUTO_WEBHOOK_SECRET"] = secrets
    web.__enter__()


def make_event(webhook: str) -> bytes:
    return json.dumps({"event": "test", "id": str(uuid4()), "webhook_id": webhook}).encode()


def post(web: WebProcess, webhook: str, secret: str) -> int:
    body = make_event(webhook)
    return web.post(body, sign(body, secret)).http_status


class Traffic:
    """Sends deliveries of a webhook, and repeats those without an answer; a context manager."""

    def __init__(self, web: WebProcess, webhook: str, secret: str) -> None:
        self.statuses: list[int] = []
        self._url = f"{web.url}/webhooks/truto"
        self._webhook, self._secret = webhook, secret
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()

    def wait_for_more(self) -> None:
        """Wait for a few more answers."""
        enough = len(self.statuses) + 5
        wait_until(lambda: len(self.statuses) >= enough, what="more answers")

    def _send(self) -> None:
        while not self._is_done.wait(0.01):
            body = make_event(self._webhook)
            headers = {"X-Truto-Signature": sign(body, self._secret)}
            # Between two processes of the receiver: Truto retries.
            with suppress(httpx.TransportError):
                response = httpx.post(self._url, content=body, headers=headers, timeout=60)
                self.statuses.append(response.status_code)


def test_no_delivery_is_refused_during_a_rotation_and_the_old_secret_ends(
    web: WebProcess, store: Database
) -> None:
    assert [post(web, "w-old", OLD), post(web, "w-new", NEW)] == [200, 401]

    with Traffic(web, "w-old", OLD) as old:
        old.wait_for_more()
        restart(web, f"{OLD_ENTRY},{NEW_ENTRY}")
        with Traffic(web, "w-new", NEW) as new:
            old.wait_for_more()
            new.wait_for_more()
    with Traffic(web, "w-new", NEW) as still_new:
        restart(web, NEW_ENTRY)
        still_new.wait_for_more()

    assert {*old.statuses, *new.statuses, *still_new.statuses} == {200}
    assert [post(web, "w-old", OLD), post(web, "w-new", NEW), post(web, "w-old", NEW)] == [401, 200, 401]
    accepted = sum(map(len, (old.statuses, new.statuses, still_new.statuses))) + 2
    # An answer may be lost at a restart, and the delivery is stored all the same.
    assert accepted <= sum(Inbox(store).count_by_state().values()) <= accepted + 2


def test_a_reload_with_sighup_keeps_the_secrets_of_the_start(web: WebProcess) -> None:
    web.environment["TRUTO_WEBHOOK_SECRET"] = NEW_ENTRY
    with Traffic(web, "w-old", OLD) as old:
        old.wait_for_more()
        web.reload()
        wait_until(lambda: web.log.count("process.started") >= 2, what=lambda: web.log)
        old.wait_for_more()

    assert set(old.statuses) == {200}
    assert post(web, "w-new", NEW) == 401


def test_spooled_deliveries_of_a_removed_secret_are_set_aside_and_recovered(
    web: WebProcess, store: Database, tmp_path: Path, redis: Redis
) -> None:
    restart(web, f"{OLD_ENTRY},{NEW_ENTRY}")
    spool = open_spool(redis, store)
    assert store.engine.url.database
    with closing(sqlite3.connect(store.engine.url.database, isolation_level=None)) as other_program:
        other_program.execute("BEGIN IMMEDIATE")
        assert [post(web, "w-old", OLD), post(web, "w-new", NEW)] == [200, 200]
    assert spool.count() == 2

    restart(web, NEW_ENTRY)
    with Command(["app.cli", "worker"], folder=tmp_path, environment=web.environment) as worker:
        wait_until(lambda: (spool.count(), spool.count_unreadable()) == (0, 1), what=lambda: worker.log)

    command = f"rapidbridge migrate --adopt-spool {namespace_of(store)}"
    doctor = run_command("doctor", "--no-post", "--json", cwd=tmp_path, environment=web.environment)
    assert any(check["advice"].endswith(command) for check in json.loads(doctor.stdout)["checks"])
    assert sum(Inbox(store).count_by_state().values()) == 1

    both = web.environment | {"TRUTO_WEBHOOK_SECRET": f"{OLD_ENTRY},{NEW_ENTRY}"}
    moved = run_command(*command.split()[1:], cwd=tmp_path, environment=both)

    assert "Moved 1 delivery to the inbox." in moved.stdout
    assert sum(Inbox(store).count_by_state().values()) == 2
    assert spool.count_unreadable() == 0
