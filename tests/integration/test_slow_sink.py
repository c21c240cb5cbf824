"""A slow endpoint gets a part of the workers: the rows of other sinks do not wait for it."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock

import pytest
from redis import Redis
from sqlalchemy import func, select

from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.store.schema import sink_outcomes
from app.store.sink_status import SinkStatus, list_sink_statuses
from app.truto.events import Envelope
from tests.support.fake_endpoint import SECRET
from tests.support.processes import Command
from tests.support.record_endpoint import RecordEndpoint, record_endpoint
from tests.support.redis_keys import open_queue
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment

WRITE_S = 1.2
ROUTES = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[sinks.crm]
type = "http"
url = "{url}"
secret = "{secret}"
allow_private = true

[[routes]]
resource = "crm/deals"
sinks = ["crm"]

[[routes]]
sinks = ["main"]
"""


class SlowEndpoint:
    """Lets an endpoint take a second for each request, until it is fast; counts the requests."""

    def __init__(self, endpoint: RecordEndpoint) -> None:
        self.endpoint = endpoint
        self.is_fast = Event()
        self.most_at_once = 0
        self.started = 0
        self._in_progress = 0
        self._lock = Lock()
        endpoint.decide = self._wait

    def _wait(self, _body: object) -> None:
        with self._lock:
            self.started += 1
            self._in_progress += 1
            self.most_at_once = max(self.most_at_once, self._in_progress)
        self.is_fast.wait(WRITE_S)
        with self._lock:
            self._in_progress -= 1


@pytest.fixture
def slow() -> Iterator[SlowEndpoint]:
    with record_endpoint() as endpoint:
        yield SlowEndpoint(endpoint)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(database)
    yield database
    database.close()


def put(store: Database, redis: Redis, account: str, resource: str, numbers: range) -> None:
    """Store deliveries of one record each; the feeder enqueues them."""
    incoming = []
    for number in numbers:
        payload = {"integrated_account_id": account, "resource": resource, "method": "list"}
        records = [{"id": str(number)}]
        body = json.dumps({"event": "sync_job_run:record", "payload": {**payload, "records": records}})
        envelope = Envelope(
            event_id=f"{account}{number}",
            event="sync_job_run:record",
            integrated_account_id=account,
            resource=resource,
            method="list",
        )
        mac = hashlib.sha256(body.encode()).digest()
        incoming.append(IncomingDelivery(body.encode(), mac, datetime.now(UTC), envelope, is_due=True))
    Inbox(store).put(incoming)
    open_queue(redis, store).report_unqueued()


def count_done(store: Database, sink: str) -> int:
    done = (sink_outcomes.c.sink == sink, sink_outcomes.c.state == "done")
    return int(store.read(select(func.count()).where(*done))[0][0])


def find_status(store: Database) -> SinkStatus:
    [status] = [status for status in list_sink_statuses(store, ["crm"]) if status.sink == "crm"]
    return status


@pytest.mark.parametrize("workers", [1, 2])
def test_a_slow_sink_leaves_time_for_the_others_and_gets_everything(
    tmp_path: Path, store: Database, redis_url: str, slow: SlowEndpoint, workers: int
) -> None:
    (tmp_path / "routes.toml").write_text(ROUTES.format(url=slow.endpoint.url, secret=SECRET))
    settings = make_environment(
        DATABASE_URL=f"sqlite:///{tmp_path}/store.db",
        REDIS_URL=redis_url,
        ROUTES_FILE=str(tmp_path / "routes.toml"),
    )
    arguments = ["app.cli", "worker", "-n", str(workers)]
    with Redis.from_url(redis_url) as redis, Command(arguments, folder=tmp_path, environment=settings) as run:
        redis.flushall()
        put(store, redis, "a", "crm/deals", range(200))
        wait_until(lambda: run.log.count("sink.slow") == workers, what=lambda: run.log)
        wait_until(lambda: find_status(store).held.number > 100, what=lambda: run.log)
        assert find_status(store).state == "slow"
        slow.most_at_once = 0
        before = count_done(store, "crm")

        started = []
        for number in range(10):
            started_before = slow.started
            put(store, redis, "b", "crm/contacts", range(number, number + 1))
            wait_until(lambda number=number: count_done(store, "main") > number, what=lambda: run.log)  # type: ignore[misc]
            started.append(slow.started - started_before)

        # Of two workers, one writes to no slow sink. A worker that is alone rests as long as it writes: it
        # hardly begins a second write while another delivery waits.
        assert slow.most_at_once <= 1
        assert workers > 1 or sorted(started)[len(started) // 2] <= 1, started
        # Nor does the slow sink wait for the others.
        wait_until(lambda: count_done(store, "crm") > before, what=lambda: run.log)

        slow.is_fast.set()
        wait_until(lambda: count_done(store, "crm") == 200, timeout_s=60, what=lambda: run.log)
    assert len(slow.endpoint.stored) == 200
    assert "Traceback" not in run.log
