"""Outages and pauses of a real PostgreSQL sink: nothing dead, no attempts, everything in order afterwards."""

import hashlib
import json
import os
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import func, insert, select, text, update

from app.database.engine import Database, open_database
from app.store.held import HELD_FOR
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.store.schema import deliveries, sink_outcomes
from app.store.sink_states import SinkStates
from app.store.sink_status import list_sink_statuses
from app.truto.events import Envelope
from app.web.enqueuer import NewDelivery
from tests.support.postgres import PostgresServer
from tests.support.processes import Command, find_descendants
from tests.support.redis_keys import open_queue
from tests.support.seeded_store import rapidbridge
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment

ROUTES = """
[sinks.main]
type = "sql"
url = "$MAIN_URL"

[sinks.lake]
type = "files"
url = "file://{folder}/lake"
max_file_age_s = 1

[[routes]]
sinks = ["main", "lake"]
"""


class Outage:
    """A store in SQLite, a sink in PostgreSQL, a sink in a folder, and workers."""

    def __init__(self, folder: Path, store: Database, redis: Redis, redis_url: str, main_url: str) -> None:
        (folder / "routes.toml").write_text(ROUTES.format(folder=folder))
        self.folder, self.store, self.redis = folder, store, redis
        self.settings = {
            "DATABASE_URL": f"sqlite:///{folder}/store.db",
            "REDIS_URL": redis_url,
            "ROUTES_FILE": str(folder / "routes.toml"),
            "MAIN_URL": main_url,
        }
        self.sink = open_database(main_url)

    def worker(self, number: int) -> Command:
        arguments = ["app.cli", "worker", "-n", str(number)]
        return Command(arguments, folder=self.folder, environment=make_environment(**self.settings))

    def put(self, numbers: Sequence[int], *, enqueue: bool = True) -> None:
        """Store deliveries with one record each, received in the order of their numbers."""
        incoming = []
        for number in numbers:
            about = {"integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
            payload = {**about, "records": [{"id": str(number)}]}
            body = json.dumps({"event": "sync_job_run:record", "payload": payload}).encode()
            envelope = Envelope(
                event_id=str(number),
                event="sync_job_run:record",
                integrated_account_id="a",
                resource="crm/contacts",
                method="list",
            )
            received_at = datetime.now(UTC) + timedelta(microseconds=number)
            incoming.append(IncomingDelivery(body, hashlib.sha256(body).digest(), received_at, envelope))
        receipts = Inbox(self.store).put(incoming)
        if enqueue:
            queue = open_queue(self.redis, self.store)
            queue.enqueue([NewDelivery(receipt.delivery_id) for receipt in receipts])

    def count_settled(self) -> int:
        return Inbox(self.store).count_by_state().get("settled", 0)

    def count_held(self) -> int:
        return sum(status.held.number for status in list_sink_statuses(self.store, ["main"]))

    def count_lake(self) -> int:
        statement = select(func.count()).where(
            sink_outcomes.c.sink == "lake", sink_outcomes.c.state == "done"
        )
        return int(self.store.read(statement)[0][0])

    def read_written(self) -> list[int]:
        """Return the numbers of the records in the sink, in the order in which they were written."""
        rows = self.sink.read(text('SELECT "_key" FROM crm_contacts ORDER BY "_written_at", "_vseq"'))
        return [int(key) for (key,) in rows]

    def read_attempts(self) -> list[int]:
        return [row.attempts for row in self.store.read(select(deliveries.c.attempts))]

    def run(self, *arguments: str) -> str:
        ran = rapidbridge(*arguments, **self.settings)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


@pytest.fixture
def outage(
    tmp_path: Path, private_postgres: PostgresServer, redis: Redis, redis_url: str
) -> Iterator[Outage]:
    store = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(store)
    with private_postgres.database() as url:
        outage = Outage(tmp_path, store, redis, redis_url, url)
        yield outage
        outage.sink.close()
    store.close()


def test_an_outage_uses_up_no_attempts_and_everything_is_written_in_order_afterwards(
    outage: Outage, private_postgres: PostgresServer
) -> None:
    with outage.worker(1) as worker:
        outage.put(range(5))
        wait_until(lambda: outage.count_settled() == 5, what=lambda: worker.log)
        outage.sink.close()
        private_postgres.stop()
        outage.put(range(5, 105))
        wait_until(lambda: outage.count_held() == 100, what=lambda: worker.log)
        # The other sink gets everything.
        wait_until(lambda: outage.count_lake() == 105, what=lambda: worker.log)
        assert "sink.opened" in worker.log
        private_postgres.start()
        wait_until(lambda: outage.count_settled() == 105, timeout_s=60, what=lambda: worker.log)

    assert outage.read_written() == list(range(105))
    # Two failures come before the breaker opens.
    assert sorted(outage.read_attempts())[:-2] == [1] * 103
    assert max(outage.read_attempts()) <= 2
    assert "sink.closed" in worker.log
    [main] = [status for status in list_sink_statuses(outage.store) if status.sink == "main"]
    assert (main.state, main.waiting.number) == ("ok", 0)
    assert main.last_write_at


def test_a_pause_during_traffic_holds_everything_and_a_resume_writes_it_once(outage: Outage) -> None:
    numbers = count()

    def put(number: int) -> None:
        outage.put([next(numbers) for _ in range(number)])

    def has_been_read_by_both() -> bool:
        # A worker reads the pause with a delivery.
        put(1)
        return worker.log.count("sink.paused") == 2

    with outage.worker(2) as worker:
        put(40)
        wait_until(lambda: outage.count_settled() > 0, what=lambda: worker.log)
        outage.run("sinks", "pause", "main", "--reason", "a move")
        wait_until(has_been_read_by_both, what=lambda: worker.log)
        for _ in range(10):
            put(10)
        total = next(numbers)
        wait_until(lambda: outage.count_held() + outage.count_settled() == total, what=lambda: worker.log)
        written = len(outage.read_written())
        outage.put(range(total, total + 20))
        total += 20
        wait_until(lambda: outage.count_held() == total - written, what=lambda: worker.log)
        wait_until(lambda: outage.count_lake() == total, what=lambda: worker.log)
        assert len(outage.read_written()) == written <= total - 120
        assert set(outage.read_attempts()) <= {0, 1}

        assert "held deliver" in outage.run("sinks", "resume", "main")

        wait_until(lambda: outage.count_settled() == total, timeout_s=30, what=lambda: worker.log)
        assert "sink.resumed" in worker.log
    assert sorted(outage.read_written()) == list(range(total))
    assert outage.read_attempts() == [1] * total
    totals = select(func.sum(sink_outcomes.c.written)).where(sink_outcomes.c.state == "done")
    assert outage.store.read(totals)[0][0] == 2 * total


def test_a_release_continues_after_its_process_is_killed(outage: Outage) -> None:
    number = 1500
    outage.put(range(number), enqueue=False)
    SinkStates(outage.store).pause("main", by="ada", reason="", now=datetime.now(UTC))
    held_until = datetime.now(UTC) + HELD_FOR
    with outage.store.transaction() as connection:
        connection.execute(
            update(deliveries).values(due_at=held_until, leased_until=held_until, reason="sink_paused")
        )
        rows = select(deliveries.c.id, deliveries.c.received_at)
        held = [
            {
                "delivery_id": row.id,
                "sink": "main",
                "state": "failing",
                "reason": "sink_paused",
                "updated_at": row.received_at,
                "held_scope": "",
                "held_received_at": row.received_at,
            }
            for row in connection.execute(rows)
        ]
        connection.execute(insert(sink_outcomes), held)

    def resume() -> None:
        SinkStates(outage.store).resume("main")
        wait_until(lambda: outage.count_held() < number, what=lambda: worker.log)

    with outage.worker(1) as worker:
        resume()
        for pid in (worker.pid, *find_descendants(worker.pid)):
            os.kill(pid, signal.SIGKILL)
        worker.process.wait()
    assert outage.count_settled() < number
    with outage.worker(1) as worker:
        wait_until(lambda: outage.count_settled() == number, timeout_s=120, what=lambda: worker.log[-3000:])

    assert sorted(outage.read_written()) == list(range(number))
    assert outage.count_held() == 0
    assert max(outage.read_attempts()) <= 2
