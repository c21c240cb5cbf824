"""Large deliveries are written in slices, over several jobs, while other deliveries go on."""

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import text

from app.database.engine import Database, open_database
from app.redis.queue import JOB_TIMEOUT_S
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.truto.events import read_envelope
from app.web.enqueuer import NewDelivery
from tests.support.processes import Command, find_descendants
from tests.support.redis_keys import open_queue
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment

LARGE_PAGE = 300_000
# Four times the page, and what Python and the libraries take.
MAX_WORKER_MIB = 200


def put(inbox: Inbox, records: str, *, event_id: str) -> UUID:
    """Receive one page, as the web process does."""
    envelope = json.dumps(
        {"id": event_id, "event": "sync_job_run:record", "created_at": "2026-11-24T10:00:00Z"}
    )
    ids = {"sync_job_run_id": "r", "integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
    payload = f'{json.dumps(ids)[:-1]}, "records": [{records}]}}'
    body = f'{envelope[:-1]}, "payload": {payload}}}'.encode()
    digest = hashlib.sha256(body).digest()
    [receipt] = inbox.put([IncomingDelivery(body, digest, datetime.now(UTC), read_envelope(body))])
    return receipt.delivery_id


def find_worker(command: Command) -> int:
    """Return the process id of the only worker."""
    commands = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in find_descendants(command.pid)
    }
    [worker] = [pid for pid, arguments in commands.items() if b"workers.main" in arguments]
    return worker


def read_peak_mib(pid: int) -> int:
    """Return the largest resident memory of a process so far."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line[:6] == "VmHWM:"]
    return int(line.split()[1]) // 1024


@pytest.fixture
def store(postgres_url: str) -> Iterator[Database]:
    database = open_database(postgres_url)
    migrate(database)
    yield database
    database.close()


def test_a_large_page_delays_no_other_and_survives_a_killed_worker(
    tmp_path: Path, store: Database, postgres_url: str, redis_url: str, redis: Redis
) -> None:
    inbox = Inbox(store)

    def query(statement: str) -> int:
        with store.engine.connect() as connection:
            return int(connection.execute(text(statement)).scalar_one())

    def count_states() -> dict[str, int]:
        return {state: number for state, number in inbox.count_by_state().items() if number}

    settings = make_environment(DATABASE_URL=postgres_url, REDIS_URL=redis_url)
    records = ",".join(f'{{"id":"{number:07d}","n":{number}}}' for number in range(LARGE_PAGE))
    large = put(inbox, records, event_id="large")
    small = [put(inbox, f'{{"id":"small-{number}"}}', event_id=f"{number}") for number in range(40)]
    with Command(["app.cli", "worker", "-n", "1"], folder=tmp_path, environment=settings) as command:
        open_queue(redis, store).enqueue([NewDelivery(id_) for id_ in (large, *small)])

        # The small ones are behind the large one in the same queue.
        wait_until(lambda: count_states().get("settled", 0) == 40, timeout_s=60, what=lambda: command.log)
        assert count_states()["pending"] == 1
        written = "SELECT coalesce(max(written), 0) FROM rapidbridge_sink_outcomes WHERE state = 'writing'"
        wait_until(lambda: query(written) > LARGE_PAGE / 4, timeout_s=120, what=lambda: command.log)
        worker = find_worker(command)
        peak_mib = read_peak_mib(worker)
        os.kill(worker, signal.SIGKILL)
        wait_until(
            lambda: count_states() == {"settled": 41, "duplicate": 0} or count_states() == {"settled": 41},
            timeout_s=300,
            what=lambda: command.log,
        )

        peak_mib = max(peak_mib, read_peak_mib(find_worker(command)))
    assert query("SELECT count(*) FROM crm_contacts") == LARGE_PAGE + 40
    assert query("SELECT sum((data->>'n')::bigint) FROM crm_contacts") == sum(range(LARGE_PAGE))
    assert query("SELECT sum(written) FROM rapidbridge_sink_outcomes WHERE state = 'done'") == LARGE_PAGE + 40
    assert query("SELECT max(records) FROM rapidbridge_deliveries") == LARGE_PAGE
    assert peak_mib < MAX_WORKER_MIB
    assert f"timed out after {JOB_TIMEOUT_S} s" not in command.log
