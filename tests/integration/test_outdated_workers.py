"""Workers that run with other routes than a command reads, and the names of workers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from redis import Redis
from sqlalchemy import select, update

from app.config.delivery_config import DeliveryConfig
from app.config.routes import Route
from app.config.routes_file import read_routes
from app.database.engine import Database, open_database
from app.sinks.base import Batch, WriteResult
from app.sinks.registry import SinkRegistry
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.pending import PendingDeliveries
from app.store.requeue import delete_outcomes, mark_pending
from app.store.schema import deliveries, replays, sink_outcomes
from app.store.worker_registry import WorkerRecord, WorkerRegistry
from app.web.health import _check_config
from tests.integration.test_shared_redis import make_delivery
from tests.support.commands import run_command
from tests.support.files import read_rows
from tests.support.loads import run_loads
from tests.support.processes import ROOT, Command
from tests.support.redis_keys import open_queue
from tests.support.replaced_sink import ReplacedSink
from tests.support.replays import begin_replay
from tests.support.slice_files import SliceFiles
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess, make_environment
from workers.delivery.processor import DeliveryProcessor, format_worker_name, make_worker_token

MAIN = '[sinks.main]\ntype = "sql"\nurl = "{url}"\n[[routes]]\nsinks = ["main"]\n'
WITH_LAKE = (
    '[sinks.main]\ntype = "sql"\nurl = "{url}"\n[sinks.lake]\ntype = "files"\nurl = "file://{lake}"\nmax_file_age_s = 1\n'
    '[[routes]]\nsinks = ["main", "lake"]\n'
)


class Setup:
    """A store with a routes file, and the commands that read it."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/store.db"
        self.settings = {"DATABASE_URL": self.url, "REDIS_URL": redis_url}
        self.store: Database = open_database(self.url)
        migrate(self.store)
        self.inbox = Inbox(self.store)
        self.registry = WorkerRegistry(self.store)
        self.opened: list[SinkRegistry] = []
        (folder / "lake").mkdir()
        self.route(MAIN)

    def route(self, text: str) -> None:
        (self.folder / "routes.toml").write_text(self.format(text))

    def format(self, text: str) -> str:
        return text.format(url=self.url, lake=self.folder / "lake")

    def make_processor(self, text: str, *, started_at: datetime) -> DeliveryProcessor:
        routes = read_routes(self.format(text), source="routes.toml", variables={})
        self.opened.append(SinkRegistry(routes))
        return DeliveryProcessor(self.store, routes, self.opened[-1], started_at=started_at)

    def make_config(self, text: str) -> DeliveryConfig:
        routes = read_routes(self.format(text), source="routes.toml", variables={})
        return DeliveryConfig.build(routes, late_records="deliver", to_open_run=False)

    def worker(self, number: int = 1) -> Command:
        """A worker with a copy of the routes file, as on another machine: it does not see later changes."""
        copy = self.folder / "worker-routes.toml"
        copy.write_text((self.folder / "routes.toml").read_text())
        return Command(
            ["app.cli", "worker", "-n", str(number)],
            folder=self.folder,
            environment=make_environment(**self.settings, ROUTES_FILE=str(copy)),
        )

    def wait_for_workers(self, worker: Command, number: int = 1) -> set[str]:
        """Return the names of the workers once so many are live."""

        def list_live() -> set[str]:
            return {record.name for record in self.registry.list_live(now=datetime.now(UTC))}

        wait_until(lambda: len(list_live()) == number, timeout_s=40, what=lambda: worker.log)
        return list_live()

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli", *words],
            cwd=self.folder,
            env={**make_environment(**self.settings), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        environment = make_environment(**self.settings)
        ran = run_command(*words, cwd=self.folder, environment=environment, timeout_s=120)
        return ran.returncode, ran.stdout, " ".join(ran.stderr.split())

    def put_settled(self, count: int) -> list[UUID]:
        """Put deliveries and write them to the sink main."""
        receipts = self.inbox.put([make_delivery(number) for number in range(count)])
        ids = [receipt.delivery_id for receipt in receipts]
        self.make_processor(MAIN, started_at=datetime.now(UTC)).deliver(ids)
        assert self.inbox.count_by_state().get("settled") == count
        return ids

    def read_lake(self) -> set[str]:
        """Return the deliveries with rows in the files."""
        paths = (self.folder / "lake").rglob("*.jsonl.gz")
        return {row["_delivery"] for path in paths for row in read_rows(path.name, path.read_bytes())}


@pytest.fixture
def setup(tmp_path: Path, redis_url: str, redis: Redis) -> Iterator[Setup]:
    made = Setup(tmp_path, redis_url)
    yield made
    for sinks in made.opened:
        sinks.close()
    made.store.close()


@pytest.mark.parametrize("sink", [(), ("--sink", "lake")], ids=["all sinks", "new sink"])
def test_a_replay_is_refused_while_workers_have_other_routes(setup: Setup, sink: tuple[str, ...]) -> None:
    setup.put_settled(3)
    with setup.worker() as worker:
        [name] = setup.wait_for_workers(worker)
        setup.route(WITH_LAKE)
        code, out, err = setup.run("replay", "--all", *sink)
        doctor = json.loads(setup.run("doctor", "--no-post", "--json")[1])["checks"]

    assert (code, out) == (1, "")
    assert "1 of 1 running worker has another configuration" in err
    assert f"{name}, started" in err
    assert "does not know sink lake" in err
    assert "Restart all workers" in err
    assert setup.inbox.count_by_state().get("settled") == 3
    assert setup.store.read(select(replays.c.id)) == []
    [result] = [check for check in doctor if (check["component"], check["check"]) == ("workers", "config")]
    assert result["level"] == "fail"
    assert name in result["message"]
    assert "rapidbridge worker" in result["advice"]

    # After the restart the same command fills the sink.
    with setup.worker() as worker:
        setup.wait_for_workers(worker)
        code, out, err = setup.run("replay", "--all", *sink)
    assert code == 0, err
    assert "3 settled" in out
    assert len(setup.read_lake()) == 3


def test_of_two_workers_the_outdated_one_is_named(setup: Setup) -> None:
    setup.put_settled(1)
    now = datetime.now(UTC)
    for name, text in (("old:aa", MAIN), ("new:bb", WITH_LAKE)):
        config = setup.make_config(text)
        setup.registry.record_heartbeat(WorkerRecord(name, now, config.to_json(), config.digest), now=now)
    setup.route(WITH_LAKE)

    code, _, err = setup.run("replay", "--all", "--json")

    assert code == 1
    assert "1 of 2 running workers has another configuration" in err
    assert "old:aa" in err
    assert "new:bb" not in err


def test_dead_replay_is_refused_while_workers_have_other_routes(setup: Setup) -> None:
    setup.route(MAIN.replace("sinks = [", 'resource = "hr/*"\nsinks = ['))
    setup.inbox.put([make_delivery(1)])
    with setup.worker() as worker:
        wait_until(
            lambda: setup.inbox.count_by_state().get("unrouted") == 1, timeout_s=40, what=lambda: worker.log
        )
        setup.route(MAIN)
        code, _, err = setup.run("dead", "replay")

    assert code == 1
    assert "has other routes" in err
    assert setup.inbox.count_by_state().get("unrouted") == 1


def test_a_replay_without_a_worker_says_so_and_waits(setup: Setup) -> None:
    setup.put_settled(2)
    process = setup.start("replay", "--all")
    wait_until(lambda: setup.inbox.count_by_state().get("pending") == 2, timeout_s=40)
    with setup.worker() as worker:
        wait_until(lambda: process.poll() is not None, timeout_s=60, what=lambda: worker.log)
        out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert "No worker is running" in err
    assert " ".join(err.split()).endswith("worker")
    assert "2 settled" in out


def test_a_sink_that_no_route_names_is_refused(setup: Setup) -> None:
    setup.route(WITH_LAKE.replace('"main", "lake"', '"main"'))

    code, _, err = setup.run("replay", "--all", "--sink", "lake")

    assert code == 2
    assert "no route names lake" in err


def test_a_replay_that_reaches_no_delivery_of_its_sink_exits_with_1(setup: Setup) -> None:
    setup.put_settled(2)
    setup.route(
        WITH_LAKE.replace("[[routes]]", '[[routes]]\nresource = "crm/*"\nsinks = ["main"]\n[[routes]]')
    )
    with setup.worker() as worker:
        setup.wait_for_workers(worker)
        code, out, err = setup.run("replay", "--all", "--sink", "lake")

    assert code == 1, err
    assert "Written to the sink: 0 deliveries." in out


def test_an_outdated_worker_leaves_replayed_deliveries_to_the_others(setup: Setup) -> None:
    ids = setup.put_settled(2)
    now = datetime.now(UTC)
    config = setup.make_config(WITH_LAKE)
    replay = begin_replay(setup.store, now=now, config=config.digest)
    outdated = setup.make_processor(MAIN, started_at=now - timedelta(minutes=5))
    current = setup.make_processor(WITH_LAKE, started_at=now - timedelta(minutes=5))
    _requeue(setup, ids, replay.id, "lake")

    outdated.deliver(ids)

    reasons = setup.store.read(select(deliveries.c.state, deliveries.c.reason))
    assert [tuple(row) for row in reasons] == [("pending", "worker_outdated")] * 2
    assert setup.read_lake() == set()
    _make_due(setup)
    current.deliver(ids)
    routes = read_routes(setup.format(WITH_LAKE), source="routes.toml", variables={})
    run_loads(setup.store, routes, setup.opened[-1])
    assert setup.inbox.count_by_state().get("settled") == 2
    assert len(setup.read_lake()) == 2
    assert len(setup.store.read(select(sink_outcomes.c.sink).where(sink_outcomes.c.sink == "lake"))) == 2


@pytest.mark.parametrize("has_current_worker", [True, False])
def test_a_worker_that_started_after_the_replay_takes_its_deliveries_if_nobody_else_can(
    setup: Setup, has_current_worker: bool
) -> None:
    ids = setup.put_settled(1)
    now = datetime.now(UTC)
    config = setup.make_config(WITH_LAKE)
    replay = begin_replay(setup.store, now=now - timedelta(minutes=5), config=config.digest)
    if has_current_worker:
        setup.registry.record_heartbeat(WorkerRecord("new:bb", now, config.to_json(), config.digest), now=now)
    _requeue(setup, ids, replay.id, "")

    setup.make_processor(MAIN, started_at=now).deliver(ids)

    assert setup.inbox.count_by_state().get("pending" if has_current_worker else "settled") == 1


@pytest.mark.parametrize(
    ("web_age", "worker_age", "is_ok"),
    [(timedelta(hours=1), timedelta(hours=1), False), (timedelta(0), timedelta(hours=1), True),
     (timedelta(hours=1), timedelta(0), True)],
    ids=["lasting", "new web process", "new worker"],
)  # fmt: skip
def test_readiness_fails_only_after_a_lasting_difference(
    setup: Setup, web_age: timedelta, worker_age: timedelta, is_ok: bool
) -> None:
    now = datetime.now(UTC)
    config = setup.make_config(MAIN)
    record = WorkerRecord("old:aa", now - worker_age, config.to_json(), config.digest)
    setup.registry.record_heartbeat(record, now=now)

    result = _check_config(setup.registry, setup.make_config(WITH_LAKE), now - web_age)

    assert (result == "ok") == is_ok
    assert is_ok or ("old:aa does not know sink lake" in result and "restart" in result)


def test_readiness_reports_the_comparison(setup: Setup) -> None:
    redis_url = setup.settings["REDIS_URL"]
    with WebProcess(setup.folder, database_url=setup.url, redis_url=redis_url) as web:
        assert "no worker is running" in httpx.get(f"{web.url}/readyz", timeout=30).json()["workers"]
        with setup.worker() as worker:
            setup.wait_for_workers(worker)
            wait_until(
                lambda: httpx.get(f"{web.url}/readyz", timeout=30).json()["workers"] == "ok",
                what=lambda: worker.log,
            )


def test_worker_names_are_unique_in_one_process_of_one_host() -> None:
    # As in containers with one host name, whose workers have the same process id.
    names = {format_worker_name(7, make_worker_token()) for _ in range(100)}

    assert len(names) == 100


def test_the_death_of_a_worker_keeps_the_lease_of_another_with_its_host_and_process_id(setup: Setup) -> None:
    """Two processors in one process stand for two containers with one host name and one process id."""
    names: list[str] = []
    counts: list[int] = []

    class Observer(SliceFiles):
        """Notes the lease during each write, and ends the first worker during the second write."""

        def write(self, batch: Batch, route: Route) -> WriteResult:
            statement = select(deliveries.c.leased_by).where(deliveries.c.id == batch.delivery_id)
            [(name,)] = setup.store.read(statement)
            names.append(name)
            counts.append(PendingDeliveries(setup.store).release_worker(names[0], now=datetime.now(UTC)))
            return super().write(batch, route)

    routes = read_routes(setup.format(MAIN), source="routes.toml", variables={})
    for number in range(2):
        [receipt] = setup.inbox.put([make_delivery(number)])
        sinks = ReplacedSink(routes, "main", Observer(setup.folder / "lake"))
        DeliveryProcessor(setup.store, routes, sinks).deliver([receipt.delivery_id])

    assert len(set(names)) == 2
    # The first worker's own lease was released, the second one's was not.
    assert counts == [1, 0]


def test_the_leases_of_a_dead_worker_are_released_and_those_of_others_are_kept(
    setup: Setup, redis: Redis
) -> None:
    ids = [receipt.delivery_id for receipt in setup.inbox.put([make_delivery(number) for number in range(2)])]
    _lease(setup, ids, "nobody yet")
    with setup.worker(2) as worker:
        before = setup.wait_for_workers(worker, 2)
        dead, other = sorted(before)
        _lease(setup, ids[:1], dead)
        _lease(setup, ids[1:], other)
        os.kill(int(redis.hget(f"rq:worker:{dead}", "pid") or 0), signal.SIGKILL)

        wait_until(
            lambda: setup.inbox.count_by_state().get("settled") == 1, timeout_s=60, what=lambda: worker.log
        )
        wait_until(lambda: dead not in setup.registry.list_names(), what=lambda: worker.log)
        after = setup.wait_for_workers(worker, 2)

    assert other in after
    assert len(after - before) == 1
    assert dead not in open_queue(redis, setup.store).list_workers()
    [row] = setup.store.read(
        select(deliveries.c.id, deliveries.c.leased_by, deliveries.c.lost_attempts).where(
            deliveries.c.state == "pending"
        )
    )
    assert tuple(row) == (ids[1], other, 0)


def _lease(setup: Setup, ids: list[UUID], name: str) -> None:
    until = datetime.now(UTC) + timedelta(minutes=10)
    statement = update(deliveries).where(deliveries.c.id.in_(ids))
    setup.store.execute(statement.values(leased_by=name, leased_until=until, due_at=until))


def _requeue(setup: Setup, ids: list[UUID], replay_id: UUID, sink: str) -> None:
    """Make deliveries pending as a replay does."""
    with setup.store.transaction() as connection:
        mark_pending(connection, ids, replay_id=replay_id, now=datetime.now(UTC))
        delete_outcomes(connection, ids, sink)


def _make_due(setup: Setup) -> None:
    setup.store.execute(update(deliveries).values(leased_until=None))
