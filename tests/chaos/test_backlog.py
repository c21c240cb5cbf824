"""A backlog of a million deliveries drains, and delays no new delivery meanwhile."""

import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from sqlalchemy import text

from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.store.schema import deliveries
from app.truto.events import Envelope
from tests.support.processes import Command, find_descendants
from tests.support.redis_keys import open_queue
from tests.support.valkey import ValkeyServer
from tests.support.waiting import measure_slowdown, wait_until
from tests.support.web_process import WebProcess, make_environment

pytestmark = pytest.mark.chaos

BACKLOG = 1_000_000
MIB = 1024 * 1024
# Growth of a process while it works: buffers and caches. The ids of the whole backlog would take more.
MAX_GROWTH_BYTES = 32 * MIB
# Two for each of two workers; several feeders and web processes may add theirs at once.
MAX_QUEUED_JOBS = 8
# A sender is answered within this, while the machine drains the backlog.
MAX_RESPONSE_S = 3.0
MAX_READY_S = 5.0
DRAINED_AT_LEAST = 2_000
# The store's statement timeout is meant for statements of the service.
NO_LIMIT = text("SET LOCAL statement_timeout = 0")

log = logging.getLogger(__name__)


@pytest.fixture
def store(postgres_url: str) -> Iterator[Database]:
    engine = open_database(postgres_url)
    migrate(engine)
    yield engine
    engine.close()


@pytest.fixture
def web(
    tmp_path: Path, store: Database, postgres_url: str, private_valkey: ValkeyServer
) -> Iterator[WebProcess]:
    with WebProcess(tmp_path, database_url=postgres_url, redis_url=private_valkey.url) as process:
        yield process


@pytest.fixture
def worker(
    tmp_path: Path, store: Database, postgres_url: str, private_valkey: ValkeyServer, private_redis: Redis
) -> Iterator[Command]:
    settings = make_environment(DATABASE_URL=postgres_url, REDIS_URL=private_valkey.url)
    with Command(["app.cli", "worker", "-n", "2"], folder=tmp_path, environment=settings) as command:
        wait_until(lambda: private_redis.scard("rq:workers") == 2, what=lambda: f"two workers\n{command.log}")
        yield command


def body(name: str) -> bytes:
    payload: dict[str, Any] = {"integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
    payload |= {"records": [{"id": name, "name": "Ada"}]}
    return json.dumps({"id": name, "event": "sync_job_run:record", "payload": payload}).encode()


def pile_up(store: Database, number: int) -> None:
    """Store pending deliveries that are an hour old."""
    then = datetime.now(UTC) - timedelta(hours=1)
    template = IncomingDelivery(
        body("old"),
        b"old",
        then,
        Envelope(event_id="old", event="sync_job_run:record", resource="crm/contacts", method="list"),
    )
    [receipt] = Inbox(store).put([template])
    expressions = {
        "id": "gen_random_uuid()",
        "event_id": "'old-' || n",
        "received_at": "received_at + n * interval '1 ms'",
        "due_at": "due_at + n * interval '1 ms'",
    }
    columns = [column.name for column in deliveries.columns]
    values = ", ".join(expressions.get(name, name) for name in columns)
    with store.engine.begin() as connection:
        connection.execute(NO_LIMIT)
        connection.execute(
            text(
                f"INSERT INTO {deliveries.name} ({', '.join(columns)}) SELECT {values} "
                f"FROM {deliveries.name}, generate_series(2, :number) AS n WHERE id = :id"
            ),
            {"number": number, "id": receipt.delivery_id},
        )


def count(store: Database, condition: str) -> int:
    with store.engine.connect() as connection:
        result = connection.execute(text(f"SELECT count(*) FROM {deliveries.name} WHERE {condition}"))
        number: int = result.scalar_one()
        return number


def memory_bytes(pid: int, line: str) -> int:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines[line].split()[0]) * 1024


def post_for(web: WebProcess, seconds: float) -> list[float]:
    """Post one delivery after the other for some seconds; return the time of each."""
    times: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.monotonic()
        assert web.post(body(f"fresh-{len(times)}")).status == "accepted"
        times.append(time.monotonic() - started)
    return times


def test_a_backlog_of_a_million_deliveries_delays_no_new_one(
    web: WebProcess, worker: Command, store: Database, private_redis: Redis
) -> None:
    for number in range(50):
        assert web.post(body(f"before-{number}")).status == "accepted"
    wait_until(lambda: count(store, "state = 'settled'") == 50, what=lambda: worker.log)
    processes = [*find_descendants(web.pid), worker.pid, *find_descendants(worker.pid)]
    before = {pid: memory_bytes(pid, "VmRSS") for pid in processes}
    pile_up(store, BACKLOG)

    piled_up_at, settled_before = time.monotonic(), count(store, "state = 'settled'")
    times = post_for(web, seconds=20)
    requested_at = time.monotonic()
    ready = httpx.get(f"{web.url}/readyz", timeout=30)
    ready_s = time.monotonic() - requested_at
    jobs, keys = (
        private_redis.llen(f"rq:queue:{open_queue(private_redis, store).name}"),
        private_redis.dbsize(),
    )
    wait_until(
        lambda: count(store, "state = 'settled'") - settled_before >= DRAINED_AT_LEAST,
        timeout_s=40,
        what=lambda: f"the backlog to shrink\n{worker.log[-2000:]}",
    )
    drained = count(store, "state = 'settled'") - settled_before
    growth = {pid: memory_bytes(pid, "VmHWM") - before[pid] for pid in processes}
    log.info(
        "posted %d, slowest %.2f s; ready in %.2f s: %s; jobs %d, keys %d; drained %d in %.0f s; grew %s MiB",
        *(len(times), max(times), ready_s, ready.json(), jobs, keys, drained),
        *(time.monotonic() - piled_up_at, [grown // MIB for grown in growth.values()]),
    )

    slowdown = measure_slowdown()
    assert max(times) < MAX_RESPONSE_S * slowdown
    assert ready_s < MAX_READY_S * slowdown
    assert ready.status_code == 503
    assert ready.json()["backlog"].startswith("the oldest delivery has waited for 3")
    assert {ready.json()[name] for name in ("store", "redis", "workers", "spool")} == {"ok"}
    assert jobs <= MAX_QUEUED_JOBS
    # A hash for each job, and what RQ knows of its workers.
    assert keys <= MAX_QUEUED_JOBS + 50
    assert max(growth.values()) < MAX_GROWTH_BYTES

    # The rest of the backlog is deleted, as if drained. New deliveries are settled without help.
    with store.engine.begin() as connection:
        connection.execute(NO_LIMIT)
        # Skips leased rows, because a worker may wait for this transaction.
        old = f"SELECT id FROM {deliveries.name} WHERE event_id LIKE 'old-%' AND state = 'pending'"
        connection.execute(text(f"DELETE FROM {deliveries.name} WHERE id IN ({old} FOR UPDATE SKIP LOCKED)"))
    wait_until(lambda: not count(store, "state = 'pending'"), timeout_s=60, what=lambda: worker.log[-2000:])
    assert count(store, "event_id LIKE 'fresh-%' AND state = 'settled'") == len(times)
    wait_until(
        lambda: httpx.get(f"{web.url}/readyz").json()["status"] == "ok", what="the service to be ready"
    )
