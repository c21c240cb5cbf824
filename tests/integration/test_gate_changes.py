"""Web processes take over changed rules for starting runs, without a restart and without a wrong answer."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from app.database.engine import Database, open_database
from app.truto.signature import sign
from tests.support.postgres import PostgresServer
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, WebProcess

PROCESSES = 3
SENDERS = 3
ROUTES = '[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n\n[[routes]]\nresource = "crm/*"\nsinks = ["main"]\n\n'
OUT = '[[refuse]]\nintegrated_account_id = "out"\nreason = "always out"\n\n'
LOOSE = ROUTES + OUT
STRICT = (
    LOOSE
    + '[[refuse]]\nintegrated_account_id = "b"\nreason = "b is out"\n\n[[allow]]\nenvironment_id = "live"\n\n'
    + '[[webhooks]]\nid = "w"\naccount = "b"\n\n[gate]\nunrouted = true\n'
)
BROKEN = LOOSE.replace('sinks = ["main"]', 'sinks = ["mian"]')


@pytest.fixture
def store(postgres: PostgresServer, migrated_database: str) -> Iterator[Database]:
    with postgres.database(migrated_database) as url:
        database = open_database(url)
        yield database
        database.close()


@pytest.fixture
def routes_file(tmp_path: Path) -> Path:
    file = tmp_path / "routes.toml"
    file.write_text(LOOSE)
    return file


@pytest.fixture
def web(tmp_path: Path, store: Database, redis_url: str, routes_file: Path) -> Iterator[WebProcess]:
    url = store.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    with WebProcess(
        tmp_path,
        database_url=url,
        redis_url=redis_url,
        ROUTES_FILE=str(routes_file),
        WEB_CONCURRENCY=str(PROCESSES),
    ) as started:
        yield started


def make_event(
    name: str, *, account: str = "a", environment: str = "live", webhook: str = "", **more: Any
) -> bytes:
    payload = {"id": str(uuid4()), "sync_job_id": "j", "integrated_account_id": account, **more}
    ids = {"id": str(uuid4()), "created_at": datetime.now(UTC).isoformat(), "environment_id": environment}
    return json.dumps(
        {**ids, "event": f"sync_job_run:{name}", "webhook_id": webhook, "payload": payload}
    ).encode()


class Traffic:
    """Senders whose requests have the same right answer under every routes file of the test."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopped = threading.Event()
        self._senders = [threading.Thread(target=self._send) for _ in range(SENDERS)]
        self.answers: Counter[tuple[str, int]] = Counter()
        self.errors: list[str] = []

    def __enter__(self) -> "Traffic":
        for sender in self._senders:
            sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for sender in self._senders:
            sender.join()

    def _send(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stopped.is_set():
                bodies = {
                    "record": make_event("record", resource="crm/contacts", method="list", records=[]),
                    "in": make_event("started"),
                    "out": make_event("started", account="out"),
                    "forged": make_event("started"),
                }
                for name, body in bodies.items():
                    secret = "forged" if name == "forged" else SECRET
                    headers = {"X-Truto-Signature": sign(body, secret)}
                    try:
                        answer = client.post("/webhooks/truto", content=body, headers=headers)
                    except httpx.TransportError as error:
                        self.errors.append(repr(error))
                    else:
                        self.answers[name, answer.status_code] += 1


def post_to_all(web: WebProcess, **event: Any) -> set[tuple[int, str]]:
    """Return the answers to a start over many connections, which every process accepts some of."""
    answers = set()
    with httpx.Client(base_url=web.url, headers={"Connection": "close"}, timeout=60) as client:
        for _ in range(6 * PROCESSES):
            body = make_event("started", **event)
            headers = {"X-Truto-Signature": sign(body, SECRET)}
            answer = client.post("/webhooks/truto", content=body, headers=headers)
            answers.add((answer.status_code, answer.json().get("message", "")))
    return answers


def wait_for_all(web: WebProcess, message: str, times: int = 1) -> None:
    """Wait until each process has logged a message so many times."""
    wait_until(lambda: web.log.count(message) == PROCESSES * times, timeout_s=30, what=lambda: web.log)


def read_warnings(web: WebProcess) -> dict[str, str]:
    warnings: dict[str, str] = httpx.get(f"{web.url}/readyz", timeout=60).json().get("warnings", {})
    return warnings


def assert_strict(web: WebProcess) -> None:
    """Check each part of the strict rules."""
    unrouted = [{"resource": "erp/bills", "method": "list"}]
    assert post_to_all(web, account="b") == {(400, "b is out")}
    assert post_to_all(web, account="", webhook="w") == {(400, "b is out")}
    [(status, reason)] = post_to_all(web, environment="test")
    assert (status, "no [[allow]]" in reason) == (400, True)
    [(status, reason)] = post_to_all(web, resources=unrouted)
    assert (status, "erp/bills" in reason) == (400, True)


def test_changed_rules_are_taken_over_under_traffic_and_invalid_ones_never(
    web: WebProcess, store: Database, routes_file: Path
) -> None:
    with Traffic(web.url) as traffic:
        assert post_to_all(web, account="b", environment="test") == {(200, "")}

        routes_file.write_text(STRICT)
        wait_for_all(web, "event=routes.changed")
        assert_strict(web)

        spoiled = {"[sinks]": "", "no sink named mian": BROKEN, "the file is missing": None}
        for problem, content in spoiled.items():
            routes_file.unlink() if content is None else routes_file.write_text(content)
            wait_for_all(web, problem)
            assert post_to_all(web, account="b") == {(400, "b is out")}
        assert_strict(web)
        wait_until(lambda: "rapidbridge routes check" in read_warnings(web).get("routes_file", ""))

        routes_file.write_text(LOOSE)
        wait_for_all(web, "event=routes.changed", times=2)
        assert post_to_all(web, account="b", environment="test") == {(200, "")}
        wait_until(lambda: "routes_file" not in read_warnings(web))

    assert not traffic.errors
    assert set(traffic.answers) == {("record", 200), ("in", 200), ("out", 400), ("forged", 401)}
    with store.engine.connect() as connection:
        count = text("SELECT count(*) FROM rapidbridge_deliveries WHERE event = 'sync_job_run:record'")
        assert connection.execute(count).scalar_one() == traffic.answers["record", 200]
    assert "event=routes.accepted" in web.log
