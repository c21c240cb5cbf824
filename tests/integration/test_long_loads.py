"""A load that takes minutes, in a real worker whose warehouse accepts connections and never answers."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import select

from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.store.schema import deliveries, loads, sink_states, workers
from app.truto.events import read_envelope
from tests.support.processes import Command, find_descendants, is_alive
from tests.support.waiting import measure_slowdown, wait_until
from tests.support.web_process import make_environment

# A platform kills what has not ended 30 s after SIGTERM.
MAX_SHUTDOWN_S = 25.0
PAGES = 3


@pytest.fixture
def store(tmp_path: Path, postgres_url: str) -> Iterator[Database]:
    """Yield the store of a receiver with pages for a warehouse."""
    with contextlib.closing(open_database(postgres_url)) as store:
        migrate(store)
        for number in range(PAGES):
            records = [{"id": str(number)}]
            payload = {"integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
            about = {"id": f"e{number}", "event": "sync_job_run:record"}
            body = json.dumps(about | {"payload": payload | {"records": records}}).encode()
            digest = hashlib.sha256(body).digest()
            Inbox(store).put([IncomingDelivery(body, digest, datetime.now(UTC), read_envelope(body))])
        yield store


@pytest.fixture
def worker(
    tmp_path: Path, store: Database, postgres_url: str, redis: Redis, redis_url: str
) -> Iterator[Command]:
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        url = f"clickhouse://nobody@127.0.0.1:{silent_server.getsockname()[1]}/none?secure=0"
        (tmp_path / "routes.toml").write_text(
            '[sinks.dw]\ntype = "warehouse"\ndestination = "clickhouse"\nmax_file_age_s = 1\n'
            f'credentials = "{url}"\n[[routes]]\nsinks = ["dw"]\n'
        )
        settings = make_environment(DATABASE_URL=postgres_url, REDIS_URL=redis_url)
        with Command(["app.cli", "worker"], folder=tmp_path, environment=settings) as command:
            yield command


def find_dlt(worker: Command) -> list[int]:
    """Return the processes of the worker that run dlt."""
    found = []
    for pid in find_descendants(worker.pid):
        with contextlib.suppress(OSError):
            if b"app.sinks.warehouse.dlt_process" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def read_redis_heartbeat(redis: Redis) -> bytes | str | None:
    keys = redis.smembers("rq:workers")
    return redis.hget(keys.pop(), "last_heartbeat") if keys else None


def test_a_load_is_interrupted_at_sigterm_and_stays_whole(
    worker: Command, store: Database, redis: Redis
) -> None:
    wait_until(lambda: len(find_dlt(worker)) == 1, timeout_s=60, what=lambda: f"the load\n{worker.log}")
    family = [worker.pid, *find_descendants(worker.pid)]
    [load] = store.read(select(loads))
    began_at = datetime.now(UTC)
    in_redis = read_redis_heartbeat(redis)
    # No other worker begins it before the job's timeout of 300 s.
    assert (load.leased_until - began_at).total_seconds() > 250

    # Platforms send it to every process.
    began_s = time.monotonic()
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    # The worker is busy with the load, and not dead.
    wait_until(
        lambda: read_redis_heartbeat(redis) not in (None, in_redis),
        timeout_s=15,
        what=lambda: f"a heartbeat in Redis\n{worker.log}",
    )
    [registered] = store.read(select(workers.c.seen_at))
    assert registered.seen_at > began_at

    assert worker.process.wait(60) == 0
    assert time.monotonic() - began_s < MAX_SHUTDOWN_S * measure_slowdown()
    wait_until(lambda: not any(map(is_alive, family)), what=f"{family} to be gone")
    [released] = store.read(select(loads))
    assert (released.id, released.deliveries) == (load.id, PAGES)
    assert (released.leased_by, released.leased_until, released.lost_attempts) == ("", None, 0)
    # At once, or soon if it is in the queue already.
    assert released.due_at < load.due_at
    assert store.read(select(sink_states.c.sink).where(sink_states.c.failures > 0)) == []
    assert {row.state for row in store.read(select(deliveries.c.state))} == {"pending"}
