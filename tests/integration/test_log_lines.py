"""Every line of every process is JSON in production: ours, gunicorn's and RQ's."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from app.config.version import VERSION
from app.database.engine import open_database
from app.store.migrate import migrate
from tests.support.documentation import read_marked_block
from tests.support.processes import Command, find_descendants
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, WebProcess, make_environment

RECORD_TEXT = "private@example.com"
BATCH = {
    "sync_job_run_id": "run",
    "integrated_account_id": "account",
    "resource": "crm/contacts",
    "method": "list",
    "records": [{"id": "1", "email": RECORD_TEXT}],
}
Lines = list[dict[str, Any]]


@pytest.fixture
def settings(tmp_path: Path, redis: Redis, redis_url: str) -> dict[str, str]:
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_database(url)
    migrate(store)
    store.close()
    routes = tmp_path / "routes.toml"
    routes.write_text('[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n\n[[routes]]\nsinks = ["main"]\n')
    return {"LOG_FORMAT": "auto", "ROUTES_FILE": str(routes), "database_url": url, "redis_url": redis_url}


def read_lines(log: str) -> Lines:
    """Return the lines of a log; fails if one is not an object of JSON with time, level and event."""
    lines: Lines = [json.loads(line) for line in log.splitlines()]
    assert all(list(line)[:3] == ["at", "level", "event"] for line in lines), log
    return lines


def find_events(lines: Lines, event: str) -> Lines:
    return [line for line in lines if line["event"] == event]


def test_every_line_is_json_and_names_the_delivery(tmp_path: Path, settings: dict[str, str]) -> None:
    environment = make_environment(
        DATABASE_URL=settings["database_url"],
        REDIS_URL=settings["redis_url"],
        TRUTO_WEBHOOK_SECRET=SECRET,
        LOG_FORMAT="auto",
        ROUTES_FILE=settings["ROUTES_FILE"],
    )
    body = json.dumps({"id": "e1", "event": "sync_job_run:record", "payload": BATCH}).encode()

    with (
        WebProcess(tmp_path, **settings) as web,
        Command(["app.cli", "worker"], folder=tmp_path, environment=environment) as worker,
    ):
        delivery = web.post(body).delivery
        worker.wait_for("delivery.settled")
        [process] = find_descendants(web.pid)
        os.kill(process, signal.SIGKILL)
        wait_until(lambda: web.log.count("Booting worker") == 2, what=lambda: web.log)
        wait_until(lambda: web.log.count("process.started") == 2, what=lambda: web.log)
        [process] = find_descendants(worker.pid)
        os.kill(process, signal.SIGKILL)
        worker.wait_for("process.ended")
    web_lines, worker_lines = read_lines(web.log), read_lines(worker.log)

    assert [line["delivery"] for line in find_events(web_lines, "delivery.accepted")] == [delivery]
    assert [line["delivery"] for line in find_events(worker_lines, "delivery.settled")] == [delivery]
    messages = " ".join(line["message"] for line in find_events(web_lines, "gunicorn.message"))
    for text in ("Starting gunicorn", "Listening at", "was sent SIGKILL", "Handling signal: term"):
        assert text in messages
    started = find_events(web_lines, "process.started") + find_events(worker_lines, "process.started")
    assert {line["process"] for line in started} == {"web", "background", "worker"}
    for line in started:
        assert line["version"] == VERSION
        assert line["routes_file"] == settings["ROUTES_FILE"]
        assert (line["routes"], line["sinks"], line["database"]) == (1, "main (sql)", "sqlite")
        assert "DATABASE_URL=set, REDIS_URL=set" in line["settings"]
    documented = [json.loads(read_marked_block("docs/logs.md", mark)) for mark in ("accepted", "started")]
    [accepted] = find_events(web_lines, "delivery.accepted")
    [worker_started, *_] = [line for line in started if line["process"] == "worker"]
    assert [list(line) for line in documented] == [list(accepted), list(worker_started)]
    for log in (web.log, worker.log):
        assert SECRET not in log
        assert RECORD_TEXT not in log
        assert settings["redis_url"] not in log
