"""Workers killed by SIGKILL at every step of a delivery: the results are the same."""

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Column, Table, func, select, text

from app.config.routes_file import read_routes
from app.database.engine import Database, open_database
from app.sinks.registry import SinkRegistry
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.store.run_summaries import SUMMARY_COLUMNS
from app.store.schema import dead_records, deliveries, record_errors, runs, sink_outcomes
from app.truto.events import read_envelope
from app.web.enqueuer import NewDelivery
from tests.support.files import decompress, list_paths
from tests.support.loads import run_loads
from tests.support.postgres import PostgresServer
from tests.support.processes import Command, find_descendants
from tests.support.redis_keys import open_queue
from tests.support.waiting import measure_slowdown, wait_until
from tests.support.web_process import make_environment
from workers.delivery.processor import DeliveryProcessor

# A database, and the sinks of every route in order.
SQLITE, POSTGRESQL, FILES_FIRST = "sqlite main lake", "postgresql main lake", "postgresql lake main"
NO_LOADS = "postgresql main"
# What the lease would take alone, less what a busy machine may cost.
MAX_RECOVERY_S = 20.0
# A platform kills what has not ended 30 s after SIGTERM.
MAX_SHUTDOWN_S = 25.0
TIMES = ("updated_at", "died_at")
# The summary of a run, which a monitor writes beside the workers.
SUMMARY = (*SUMMARY_COLUMNS, "last_delivery_at", "summarized_at", "revision")
BAD = '{"id": "bad"}'
UNREADABLE = '{"id": "u", "n": 1e400}'


class WorkerSetup:
    """A store, a database sink in the same database, a files sink, and deliveries."""

    def __init__(self, folder: Path, url: str, sinks: Sequence[str], now: datetime) -> None:
        folder.mkdir()
        self.received_at = now
        self.folder, self.lake, self.url = folder, folder / "lake", url
        routes = (
            f'[sinks.main]\ntype = "sql"\nurl = "{url}"\n'
            f'[sinks.lake]\ntype = "files"\nurl = "file://{self.lake}"\nmax_file_age_s = 1\n'
            f"[[routes]]\nsinks = {json.dumps(sinks)}\n"
        )
        (folder / "routes.toml").write_text(routes)
        self.routes = read_routes(routes, source="routes.toml", variables={})
        self.store = open_database(url)
        migrate(self.store)
        self.inbox = Inbox(self.store)

    def put(self, name: str, event: str, **payload: Any) -> UUID:
        """Receive one body, as the web process does."""
        about = {"id": name, "event": f"sync_job_run:{event}", "created_at": f"2026-11-24T10:00:0{name[0]}Z"}
        raw = payload.pop("records", None)
        ids = {"sync_job_run_id": "r", "integrated_account_id": "a"}
        inner = json.dumps(ids | {"resource": "crm/contacts", "method": "list"} | payload)
        if raw is not None:
            inner = f'{inner[:-1]}, "records": [{raw}]}}'
        body = f'{json.dumps(about)[:-1]}, "payload": {inner}}}'.encode()
        digest = hashlib.sha256(body).digest()
        [receipt] = self.inbox.put([IncomingDelivery(body, digest, self.received_at, read_envelope(body))])
        return receipt.delivery_id

    def put_first(self) -> None:
        """Create the table with one row and a constraint that rejects the record "bad"."""
        first = self.put("1 first", "record", records='{"id": "a", "n": 0}')
        self.deliver([first])
        with self.store.engine.begin() as connection:
            if self.store.dialect.name == "postgresql":
                connection.execute(text("ALTER TABLE crm_contacts ADD CHECK (\"_key\" <> 'bad')"))
            else:
                connection.execute(
                    text(
                        "CREATE TRIGGER no_bad BEFORE INSERT ON crm_contacts WHEN NEW.\"_key\" = 'bad' "
                        "BEGIN SELECT RAISE(ABORT, 'bad'); END"
                    )
                )

    def put_pages(self) -> list[UUID]:
        """Receive the deliveries during which a worker is killed: pages with bad records, and other events."""
        good = [json.dumps({"id": id_, "n": 3}) for id_ in "abcd"]
        older = json.dumps({"id": "b", "n": 2})
        error = {"status": 429, "message": "too many"}
        return [
            self.put("3 page", "record", records=", ".join([*good, BAD, UNREADABLE])),
            self.put("2 older", "record", records=f"{older}, {older}, {BAD}"),
            self.put("4 error", "record_error", errors=[error, error]),
            self.put("5 end", "completed", id="r", status="completed"),
        ]

    def put_late(self) -> UUID:
        return self.put("6 late", "record", records='{"id": "z"}')

    def deliver(self, ids: list[UUID]) -> None:
        """Process deliveries without a crash."""
        sinks = SinkRegistry(self.routes)
        DeliveryProcessor(self.store, self.routes, sinks).deliver(ids)
        run_loads(self.store, self.routes, sinks)
        sinks.close()

    def is_settled(self) -> bool:
        return "pending" not in self.inbox.count_by_state()

    def state(self, delivery_id: UUID) -> str:
        with self.store.engine.connect() as connection:
            statement = select(deliveries.c.state).where(deliveries.c.id == delivery_id)
            return str(connection.execute(statement).scalar_one())

    def is_job_blocked(self) -> bool:
        """Whether a statement waits for a lock, and a worker has leased a delivery."""
        # The comparison of tables at the start of a worker waits as well.
        return bool(self.leased_by()) and self.is_blocked()

    def is_blocked(self) -> bool:
        """Whether a statement waits for a lock."""
        waiting = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with self.store.engine.connect() as connection:
            return bool(connection.execute(text(waiting)).scalar_one())

    def leased_by(self) -> str:
        """Return the worker that has a pending delivery leased, or ""."""
        with self.store.engine.connect() as connection:
            statement = select(deliveries.c.leased_by).where(deliveries.c.state == "pending")
            return str(max(connection.execute(statement).scalars(), default=""))

    def keys(self) -> list[str]:
        with self.store.engine.connect() as connection:
            return sorted(connection.execute(text('SELECT "_key" FROM crm_contacts')).scalars())

    def last_settled_at(self) -> datetime:
        with self.store.engine.connect() as connection:
            settled_at: datetime = connection.execute(select(func.max(deliveries.c.settled_at))).scalar_one()
            return settled_at

    def read_everything(self) -> dict[str, Any]:
        """Return the contents of the store and the sinks, without times of processing."""
        about = (
            "id",
            "state",
            "reason",
            "records",
            "replaced_characters",
            "duplicates",
            "leased_by",
            "leased_until",
        )
        rows = 'SELECT "_account", "_key", "data", "_version", "_vseq", "_deleted_at" FROM crm_contacts'
        with self.store.engine.connect() as connection:
            contents: dict[str, Any] = {
                table.name: sorted(
                    map(tuple, connection.execute(select(*_list_result_columns(table)))),
                    key=repr,
                )
                for table in (sink_outcomes, dead_records, record_errors, runs)
            }
            states = connection.execute(select(*(deliveries.c[name] for name in about)))
            contents[deliveries.name] = sorted(map(tuple, states), key=repr)
            contents["rows"] = sorted(map(tuple, connection.execute(text(rows))), key=repr)
        # Which deliveries are in one load depends on the time.
        contents["lines"] = sorted(
            f"{file.parent.relative_to(self.lake)} {line}"
            for file in list_paths(self.lake)
            if ".staging" not in file.parts
            for line in decompress(file.name, file.read_bytes()).decode().splitlines()
        )
        return contents


def _list_result_columns(table: Table) -> list[Column[Any]]:
    left_out = (*TIMES, *SUMMARY) if table is runs else TIMES
    return [column for column in table.c if column.name not in left_out]


@pytest.fixture
def setups(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[WorkerSetup, WorkerSetup]]:
    """One setup whose workers are killed, and one without crashes."""
    kind, *sinks = request.param.split()
    now = datetime.now(UTC)
    with ExitStack() as stack:
        urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("killed", "undisturbed")]
        if kind == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres")
            urls = [stack.enter_context(server.database()) for _ in urls]
        killed, undisturbed = (
            WorkerSetup(tmp_path / f"setup-{n}", url, sinks, now) for n, url in enumerate(urls)
        )
        for setup in (killed, undisturbed):
            stack.callback(setup.store.close)
            setup.put_first()
        # A fresh delivery: the sweeper does not enqueue it a second time at once.
        killed.received_at = undisturbed.received_at = datetime.now(UTC)
        yield killed, undisturbed


def enqueue(redis: Redis, store: Database, ids: list[UUID]) -> None:
    open_queue(redis, store).enqueue([NewDelivery(id_) for id_ in ids])


def settings(setup: WorkerSetup, redis_url: str, **more: str) -> dict[str, str]:
    routes = str(setup.folder / "routes.toml")
    return make_environment(DATABASE_URL=setup.url, REDIS_URL=redis_url, ROUTES_FILE=routes, **more)


@contextmanager
def locked(setup: WorkerSetup) -> Iterator[Callable[[], None]]:
    """Lock the sink's table until the end, or until the yielded function is called."""
    with psycopg.connect(setup.url) as connection:
        connection.execute("LOCK TABLE crm_contacts")
        yield connection.rollback


@pytest.mark.parametrize(
    ("setups", "step"),
    [
        (POSTGRESQL, "popped"),
        (POSTGRESQL, "started"),
        (POSTGRESQL, "claimed"),
        (POSTGRESQL, "in the database"),
        (POSTGRESQL, "load leased"),
        (POSTGRESQL, "load prepared"),
        (POSTGRESQL, "in a file"),
        (POSTGRESQL, "load finishing"),
        (POSTGRESQL, "load finished"),
        (FILES_FIRST, "in a file"),
        (FILES_FIRST, "in the database"),
        (FILES_FIRST, "beside the file"),
        (POSTGRESQL, "splitting"),
        (POSTGRESQL, "settling"),
        (POSTGRESQL, "settled"),
        (SQLITE, "splitting"),
        (SQLITE, "settling"),
    ],
    indirect=["setups"],
)
def test_a_worker_killed_at_any_step_changes_no_result(
    setups: tuple[WorkerSetup, WorkerSetup], step: str, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    setup, undisturbed = setups
    marker = tmp_path / "killed-once"
    crashing_worker = [
        "tests.support.crashing_worker",
        "supervised",
        str(int(signal.SIGKILL)),
        step,
        str(marker),
    ]
    ids = setup.put_pages()
    enqueue(redis, setup.store, ids)

    with Command(crashing_worker, folder=setup.folder, environment=settings(setup, redis_url)) as command:
        wait_until(marker.exists, what=lambda: f"a worker to be killed\n{command.log}")
        killed_at = datetime.fromtimestamp(marker.stat().st_mtime, UTC)
        command.wait_for("process.ended")
        wait_until(setup.is_settled, timeout_s=MAX_RECOVERY_S, what=lambda: command.log)
        recovery_s = (setup.last_settled_at() - killed_at).total_seconds()
        # As RQ repeats a job that it does not know to be finished.
        enqueue(redis, setup.store, [*ids, setup.put_late()])
        wait_until(setup.is_settled, what=lambda: command.log)
    undisturbed.deliver(undisturbed.put_pages())
    undisturbed.deliver([undisturbed.put_late()])

    assert recovery_s < MAX_RECOVERY_S * measure_slowdown()
    assert setup.read_everything() == undisturbed.read_everything()
    sizes = {name.removeprefix("rapidbridge_"): len(rows) for name, rows in setup.read_everything().items()}
    expected_sizes = {"deliveries": 6, "sink_outcomes": 8, "dead_records": 3, "record_errors": 2, "runs": 1}
    assert sizes == expected_sizes | {"rows": 5, "lines": 10}


@pytest.mark.parametrize("setups", [NO_LOADS], indirect=True)
@pytest.mark.parametrize("way", ["once", "every_process", "twice"])
def test_a_worker_finishes_its_job_at_sigterm_and_starts_no_other(
    setups: tuple[WorkerSetup, WorkerSetup], way: str, redis: Redis, redis_url: str
) -> None:
    setup, _ = setups
    current, queued = setup.put_pages()[0], setup.put_late()
    for id_ in (current, queued):
        enqueue(redis, setup.store, [id_])

    with (
        locked(setup) as unlock,
        Command(
            ["app.cli", "worker"], folder=setup.folder, environment=settings(setup, redis_url)
        ) as command,
    ):
        wait_until(setup.is_job_blocked, what=lambda: f"a job\n{command.log}")
        # A platform signals all processes; the supervisor then signals its worker again.
        for pid in [command.pid, *(find_descendants(command.pid) if way == "every_process" else [])]:
            os.kill(pid, signal.SIGTERM)
        [worker] = redis.smembers("rq:workers")
        wait_until(
            lambda: redis.hexists(worker, "shutdown_requested_date"), what="the worker to receive SIGTERM"
        )
        if way == "twice":
            # RQ ignores a second signal within one second.
            time.sleep(1.2)
            os.kill(max(find_descendants(command.pid)), signal.SIGTERM)
        unlock()
        unlocked_at = time.monotonic()
        code = command.process.wait(40)
        took_s = time.monotonic() - unlocked_at

    assert code == 0, command.log
    assert took_s < MAX_SHUTDOWN_S * measure_slowdown()
    assert "process.killed" not in command.log
    assert (setup.state(current), setup.state(queued)) == ("settled", "pending")
    assert setup.keys() == [*"abcd"]


@pytest.mark.parametrize("setups", [POSTGRESQL], indirect=True)
def test_another_worker_processes_the_deliveries_of_a_killed_one(
    setups: tuple[WorkerSetup, WorkerSetup], redis: Redis, redis_url: str
) -> None:
    setup, undisturbed = setups
    enqueue(redis, setup.store, setup.put_pages())
    two = settings(setup, redis_url, WORKER_CONCURRENCY="2")

    with (
        locked(setup) as unlock,
        Command(["app.cli", "worker"], folder=setup.folder, environment=two) as command,
    ):
        wait_until(setup.is_job_blocked, what=lambda: f"a job\n{command.log}")
        first = setup.leased_by()
        wait_until(lambda: redis.scard("rq:workers") == 2, what=lambda: f"another\n{command.log}")
        os.kill(int(first.rpartition(":")[2]), signal.SIGKILL)
        wait_until(lambda: setup.leased_by() not in ("", first), what=lambda: f"another\n{command.log}")
        unlock()
        wait_until(setup.is_settled, what=lambda: command.log)
    undisturbed.deliver(undisturbed.put_pages())

    assert setup.read_everything() == undisturbed.read_everything()
