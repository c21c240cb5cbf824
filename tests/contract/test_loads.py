"""Loads: deliveries wait, are planned once, written together, and settled when their files are there."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from sqlalchemy import select, update

from app.config.routes_file import read_routes
from app.database.engine import Database
from app.errors import JobTimeout, SinkTimeout, SinkUnavailable, WorkerStopping
from app.redis.queue import WORKERS_KEY, DeliveryQueue
from app.sinks.files.load_writer import FilesLoad
from app.sinks.files.local_store import LocalStore
from app.sinks.sql.sink import SqlSink
from app.store.column_misfits import ColumnMisfits
from app.store.erasure import AccountData
from app.store.load_results import LoadResults
from app.store.loads import Load, Loads
from app.store.pending import PendingDeliveries
from app.store.requeue import delete_outcomes, mark_pending
from app.store.results import DeliveryResults
from app.store.schema import dead_records, deliveries, loads, replays, sink_states
from app.store.sink_states import SinkStates
from app.store.sink_status import list_failing_sinks, list_sink_statuses
from app.truto import record_slices
from tests.support.due import lease_due
from tests.support.files import read_rows
from tests.support.load_site import NOW, LoadSite, lake_routes
from tests.support.replays import begin_replay
from workers.background.load_planner import LoadPlanner
from workers.background.releaser import Releaser
from workers.delivery.load_runner import LoadRunner


@pytest.fixture
def site(store: Database, tmp_path: Path) -> LoadSite:
    return LoadSite(store, lake_routes(tmp_path / "lake"), tmp_path / "lake")


def count_loads(store: Database) -> int:
    return len(store.read(select(loads.c.id)))


def test_a_load_leaves_a_delivery_that_a_worker_has_leased_to_that_worker(site: LoadSite) -> None:
    [id_] = site.put_pages(1)
    site.process([id_])
    load = site.plan()
    assert load is not None
    pending = PendingDeliveries(site.store)
    # A waiting delivery is due in days.
    assert pending.lease([id_], worker="other", now=NOW + timedelta(days=30), lease_s=40)

    site.runner.run(load.id)

    assert site.read_outcome(id_).state == "done"
    assert site.read_states() == {id_: "pending"}
    pending.release([id_], worker="other", now=datetime.now(UTC))
    site.process([id_])
    assert site.read_states() == {id_: "settled"}
    assert len(site.read_rows()) == 1


def test_a_delivery_waits_for_a_load_and_is_settled_when_its_file_is_there(site: LoadSite) -> None:
    ids = site.put_pages(3)
    site.process(ids)
    waiting = site.read_outcome(ids[0])
    assert (waiting.state, waiting.reason) == ("failing", "in_load")
    assert set(site.read_states().values()) == {"pending"}
    assert not site.folder.exists()

    load = site.plan()
    assert load is not None
    assert load.deliveries == 3
    site.runner.run(load.id)

    assert set(site.read_states().values()) == {"settled"}
    outcome = site.read_outcome(ids[0])
    assert (outcome.state, outcome.written, outcome.held_scope) == ("done", 1, None)
    [name] = site.list_files()
    assert name == f"resource=crm%2Fcontacts/account=a/dt={NOW.date().isoformat()}/{load.id}.jsonl.gz"
    assert [row["data"]["n"] for row in site.read_rows()] == [0, 1, 2]
    assert count_loads(site.store) == 0


def test_a_load_begins_at_a_size_or_an_age(site: LoadSite) -> None:
    ids = site.put_pages(4)
    site.process(ids)
    assert site.plan(max_age_s=60) is None

    size = site.store.read(select(deliveries.c.body_bytes))[0].body_bytes
    load = site.plan(max_bytes=2 * size, max_age_s=60)
    assert load is not None
    assert (load.deliveries, load.body_bytes) == (2, 2 * size)
    assert [delivery.id for delivery in site.loads.list_deliveries(load)] == ids[:2]

    rest = site.plan(max_age_s=0)
    assert rest is not None
    assert rest.deliveries == 2
    assert site.plan() is None


def test_planners_that_run_together_take_each_delivery_once(site: LoadSite) -> None:
    ids = site.put_pages(40)
    site.process(ids)

    with ThreadPoolExecutor(4) as planners:
        planned = list(planners.map(lambda _: site.plan(max_bytes=3000), range(8)))

    taken = [delivery.id for load in planned if load for delivery in site.loads.list_deliveries(load)]
    assert len(taken) == len({*taken}) == sum(load.deliveries for load in planned if load)
    for load in filter(None, planned):
        site.runner.run(load.id)
    site.run_all()
    assert sorted(row["_key"] for row in site.read_rows()) == [f"{n:04d}" for n in range(40)]


def test_a_load_is_leased_by_one_worker(site: LoadSite) -> None:
    site.process(site.put_pages(1))
    load = site.plan()
    assert load is not None
    now = datetime.now(UTC)

    assert site.loads.lease(load.id, worker="one", now=now, lease_s=40)
    assert site.loads.lease(load.id, worker="two", now=now, lease_s=40) is None
    later = site.loads.lease(load.id, worker="two", now=now + timedelta(seconds=41), lease_s=40)

    assert later is not None
    assert (later.attempts, later.lost_attempts) == (2, 1)
    # The first worker has lost it.
    assert not site.loads.prepare(load, "[]", worker="one")
    assert LoadResults(site.store).finish(load, [], worker="one", now=now) is None


CRASH_POINTS: Sequence[tuple[type, str, bool]] = [
    (FilesLoad, "prepare", False),
    (Loads, "prepare", False),
    (Loads, "prepare", True),
    (LocalStore, "publish", False),
    (LocalStore, "publish", True),
    (LoadResults, "finish", False),
]


@pytest.mark.parametrize(
    ("owner", "function", "after"), CRASH_POINTS, ids=[f"{o.__name__}.{f}-{a}" for o, f, a in CRASH_POINTS]
)
def test_a_load_whose_worker_dies_is_repeated_identically(
    site: LoadSite, monkeypatch: pytest.MonkeyPatch, owner: type, function: str, after: bool
) -> None:
    ids = [*site.put_pages(2), *site.put_pages(2, account="b"), site.put('{"id": "u", "n": 1e400}', number=9)]
    site.process(ids)
    load = site.plan()
    assert load is not None
    original: Callable[..., Any] = getattr(owner, function)

    def die(*arguments: Any, **options: Any) -> Any:
        if after:
            original(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, die)
        patch.setattr(FilesLoad, "close", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            site.runner.run(load.id)
    before = {name: (site.folder / name).read_bytes() for name in site.list_files() if "staging" not in name}
    assert set(site.read_states().values()) == {"pending"}

    site.loads.release_worker("w", now=datetime.now(UTC))
    site.open_runner("other").run(load.id)

    assert set(site.read_states().values()) == {"settled"}
    names = [name for name in site.list_files() if "staging" not in name]
    assert {
        name: content for name, content in before.items() if (site.folder / name).read_bytes() != content
    } == {}
    assert [name.rpartition("/")[2] for name in names] == [f"{load.id}.jsonl.gz"] * 2
    rows = [row for name in names for row in read_rows(name, (site.folder / name).read_bytes())]
    assert sorted((row["_account"], row["_key"]) for row in rows) == [
        ("a", "0000"), ("a", "0001"), ("b", "0000"), ("b", "0001"),
    ]  # fmt: skip
    assert len(site.store.read(select(dead_records.c.ordinal))) == 1


def test_waiting_deliveries_are_neither_held_nor_released_nor_failing(site: LoadSite) -> None:
    site.process(site.put_pages(3))

    Releaser(site.store).run_once()

    [status] = list_sink_statuses(site.store)
    assert (status.state, status.held.number, status.retried.number, status.loading.number) == ("ok", 0, 0, 3)
    assert status.load_since == NOW
    assert PendingDeliveries(site.store).find_oldest_received_at() is None
    assert lease_due(site.store, now=NOW, limit=9, requeue_after_s=60) == []
    load = site.plan()
    assert load is not None
    Releaser(site.store).run_once()
    [status] = list_sink_statuses(site.store)
    assert (status.state, status.held.number, status.loading.number) == ("ok", 0, 3)
    site.runner.run(load.id)
    assert set(site.read_states().values()) == {"settled"}


FAN_OUT = '\n[sinks.main]\ntype = "sql"\nurl = "sqlite:///{}/main.db"\n'


@pytest.fixture
def both(store: Database, tmp_path: Path) -> Iterator[LoadSite]:
    """A site whose route has a sink of each kind."""
    routes = lake_routes(tmp_path / "lake").replace('["lake"]', '["lake", "main"]')
    site = LoadSite(store, routes + FAN_OUT.format(tmp_path), tmp_path / "lake")
    yield site
    site.sinks.close()


def test_a_delivery_of_both_kinds_of_sinks_is_settled_when_both_have_it(both: LoadSite) -> None:
    ids = both.put_pages(2)
    both.process(ids)
    assert both.read_outcome(ids[0], "main").state == "done"
    assert set(both.read_states().values()) == {"pending"}

    both.run_all()

    assert set(both.read_states().values()) == {"settled"}
    assert len(both.read_rows()) == 2


def test_a_delivery_that_another_sink_lacks_stays_pending_after_its_load(
    both: LoadSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = both.put_pages(2)
    with monkeypatch.context() as patch:
        patch.setattr(SqlSink, "write_batches", fail)
        both.process(ids)
        waiting = both.read_outcome(ids[0])
        both.run_all()
        assert (both.read_outcome(ids[0]).state, both.read_outcome(ids[0], "main").state) == (
            "done",
            "failing",
        )
        assert set(both.read_states().values()) == {"pending"}
    assert waiting.reason == "in_load"

    make_due(both)
    both.process(ids)

    assert set(both.read_states().values()) == {"settled"}
    # Not a second time in a file.
    assert both.plan() is None
    assert len(both.read_rows()) == 2


def fail(*_: Any) -> Any:
    raise SinkUnavailable("away")


def make_due(site: LoadSite) -> None:
    site.store.execute(update(deliveries).values(leased_until=None, due_at=NOW))
    site.store.execute(update(sink_states).values(retry_at=NOW))


@pytest.mark.parametrize("when", ["before the write", "before the save"])
def test_a_load_that_ends_while_a_worker_has_the_delivery_leaves_nothing_waiting(
    both: LoadSite, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    ids = both.put_pages(2)
    with monkeypatch.context() as patch:
        patch.setattr(SqlSink, "write_batches", fail)
        both.process(ids)
    make_due(both)
    load = both.plan()
    assert load is not None
    owner, function = (SqlSink, "write_batches") if when == "before the write" else (DeliveryResults, "save")
    original: Callable[..., Any] = getattr(owner, function)
    other = both.open_runner("other")

    def run_load_first(*arguments: Any, **options: Any) -> Any:
        other.run(load.id)
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, run_load_first)
        both.process(ids)

    assert {both.read_outcome(id_).state for id_ in ids} == {"done"}
    # A worker that knew nothing of the load made the delivery due instead of holding it.
    both.process(ids)
    assert set(both.read_states().values()) == {"settled"}
    assert both.plan() is None
    assert len(both.read_rows()) == 2


def test_a_worker_that_knows_an_older_outcome_does_not_move_a_delivery_out_of_its_load(
    both: LoadSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = both.put_pages(1)
    with monkeypatch.context() as patch:
        patch.setattr(SqlSink, "write_batches", fail)
        both.process(ids)
        make_due(both)
        planned: list[Load | None] = []

        def plan_first(*_: Any) -> Any:
            planned.append(both.plan())
            raise SinkUnavailable("away")

        patch.setattr(SqlSink, "write_batches", plan_first)
        both.process(ids)
    [load] = planned
    assert load is not None
    assert both.read_outcome(ids[0]).held_scope == load.scope
    both.runner.run(load.id)

    assert both.read_outcome(ids[0]).state == "done"
    assert len(both.read_rows()) == 1


@pytest.mark.parametrize("when", ["waiting", "planned"])
def test_erased_deliveries_are_left_out_of_their_load(site: LoadSite, when: str) -> None:
    ids = [*site.put_pages(1, account="a"), *site.put_pages(1, account="b")]
    site.process(ids)
    load = site.plan() if when == "planned" else None

    list(AccountData(site.store, "a", until=datetime.now(UTC)).erase(now=datetime.now(UTC)))
    load = load or site.plan()
    assert load is not None
    site.runner.run(load.id)

    assert [row["_account"] for row in site.read_rows()] == ["b"]
    assert sorted(site.read_states().values()) == ["discarded", "settled"]
    assert site.read_outcome(ids[0]).held_scope is None
    [status] = list_sink_statuses(site.store)
    assert status.waiting.number == 0


def test_an_erasure_waits_for_the_worker_of_a_load(site: LoadSite) -> None:
    ids = site.put_pages(1)
    site.process(ids)
    load = site.plan()
    assert load is not None
    now = datetime.now(UTC)
    site.loads.lease(load.id, worker="w", now=now, lease_s=40)
    data = AccountData(site.store, "a", until=now)

    list(data.erase(now=now))

    assert data.find_in_progress(now=now) == ids
    assert data.find_in_progress(now=now + timedelta(seconds=41)) == []


def test_a_delivery_that_kills_its_workers_is_dead_and_the_others_are_written(
    site: LoadSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = site.put_pages(9)
    site.process(ids)
    deadly = ids[6]
    original = LoadRunner._add_delivery

    def die(runner: LoadRunner, attempt: Any, delivery: Any, *rest: Any) -> None:
        if delivery.id == deadly:
            raise KeyboardInterrupt
        original(runner, attempt, delivery, *rest)

    monkeypatch.setattr(LoadRunner, "_add_delivery", die)
    deaths = 0
    for number in range(60):
        site.plan()
        for row in site.store.read(select(loads.c.id)):
            worker = f"w{number}"
            try:
                site.open_runner(worker).run(row.id)
            except KeyboardInterrupt:
                deaths += 1
                site.loads.release_worker(worker, now=datetime.now(UTC))
        if "pending" not in site.read_states().values():
            break

    states = site.read_states()
    assert states.pop(deadly) == "dead"
    assert set(states.values()) == {"settled"}
    assert deaths < 15
    assert site.read_outcome(deadly).reason == "worker_lost"
    assert sorted(row["_key"] for row in site.read_rows()) == [f"{n:04d}" for n in range(9) if n != 6]


@pytest.mark.parametrize(
    "error", [JobTimeout("the job timed out"), SinkTimeout("did not answer within 280 s")]
)
def test_a_load_that_takes_too_long_is_halved(
    site: LoadSite, monkeypatch: pytest.MonkeyPatch, error: JobTimeout | SinkTimeout
) -> None:
    site.process(site.put_pages(8))
    load = site.plan()
    assert load is not None
    original = LocalStore.publish

    def publish(store: LocalStore, files: Sequence[Any]) -> None:
        if len(site.loads.list_deliveries(load)) > 3:
            raise error
        original(store, files)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "publish", publish)
        for number in (8, 4):
            site.runner.run(load.id)
            [row] = site.store.read(select(loads))
            assert (row.deliveries, row.leased_until) == (number // 2, None)
        site.runner.run(load.id)

    assert sorted(site.read_states().values()) == ["pending"] * 6 + ["settled"] * 2
    site.run_all()
    assert sorted(row["_key"] for row in site.read_rows()) == [f"{n:04d}" for n in range(8)]


def test_a_load_that_its_stopped_worker_interrupts_stays_whole(
    site: LoadSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.process(site.put_pages(2))
    load = site.plan()
    assert load is not None
    leases = list[timedelta]()

    def stop(*_: Any) -> None:
        [row] = site.store.read(select(loads))
        leases.append(row.leased_until - datetime.now(UTC))
        raise WorkerStopping("the worker was stopped during the job")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "publish", stop)
        with pytest.raises(WorkerStopping):
            site.runner.run(load.id, timeout_s=300)
    site.runner.release()

    [lease] = leases
    assert timedelta(seconds=300) < lease < timedelta(seconds=310)
    [row] = site.store.read(select(loads))
    assert (row.deliveries, row.lost_attempts, row.leased_until) == (2, 0, None)
    assert SinkStates(site.store).list() == []
    site.open_runner("other").run(load.id)
    assert set(site.read_states().values()) == {"settled"}


def test_a_bug_in_a_sink_keeps_its_load_and_is_visible(
    site: LoadSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.process(site.put_pages(1))
    load = site.plan()
    assert load is not None

    def break_down(*_: Any) -> Any:
        raise ZeroDivisionError("a secret record")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "publish", break_down)
        site.runner.run(load.id)

    [status] = list_failing_sinks(site.store)
    assert (status.sink, status.reason, status.loading.number) == ("lake", "internal_error", 1)
    assert "ZeroDivisionError at " in status.message
    assert "secret" not in status.message
    make_due(site)
    site.store.execute(update(loads).values(leased_until=None))
    site.open_runner("other").run(load.id)
    assert list_failing_sinks(site.store) == []
    assert set(site.read_states().values()) == {"settled"}


def test_dead_records_and_misfits_of_a_load_are_kept_and_counted(store: Database, tmp_path: Path) -> None:
    columns = "[routes.columns]\nn = 'integer'"
    routes = lake_routes(tmp_path / "lake", sink='format = "parquet"', route=columns)
    site = LoadSite(store, routes, tmp_path / "lake")
    id_ = site.put({"id": "1", "n": "x"}, "NaN", '"no object"', {"id": "2", "n": 2})
    site.process([id_])

    site.run_all()

    outcome = site.read_outcome(id_)
    assert (outcome.state, outcome.written, outcome.dead) == ("done", 2, 2)
    rows = store.read(select(dead_records).order_by(dead_records.c.ordinal))
    assert [(row.sink, row.ordinal, row.reason, row.raw, row.resource) for row in rows] == [
        ("", 1, "not_a_number", "NaN", "crm/contacts"),
        ("lake", 2, "not_object", '"no object"', "crm/contacts"),
    ]
    [misfit] = ColumnMisfits(store).list_newest(limit=9)
    assert (misfit.sink, misfit.column, misfit.number) == ("lake", "n", 1)


def test_a_replay_writes_a_new_file_with_the_same_versions(site: LoadSite) -> None:
    ids = site.put_pages(2)
    site.process(ids)
    site.run_all()
    before = site.read_rows()

    with site.store.transaction() as connection:
        delete_outcomes(connection, ids, "")
        mark_pending(connection, ids, replay_id=uuid4(), now=datetime.now(UTC))
    site.process(ids)
    site.run_all()

    assert set(site.read_states().values()) == {"settled"}
    assert len(site.list_files()) == 2
    assert sorted(map(json.dumps, site.read_rows())) == sorted(map(json.dumps, before * 2))


def test_an_outdated_worker_leaves_the_loads_of_a_replay_to_the_others(site: LoadSite) -> None:
    ids = site.put_pages(1)
    site.process(ids)
    site.run_all()
    now = datetime.now(UTC)
    replay = begin_replay(site.store, now=now, config="current")
    with site.store.transaction() as connection:
        delete_outcomes(connection, ids, "")
        mark_pending(connection, ids, replay_id=replay.id, now=now)
    # Not by this processor, which is as outdated.
    site.store.execute(update(replays).values(config=""))
    site.process(ids)
    site.store.execute(update(replays).values(config="current"))
    load = site.plan()
    assert load is not None

    options: dict[str, Any] = {"started_at": now - timedelta(minutes=1)}
    site.open_runner("old", config="old", **options).run(load.id)
    assert set(site.read_states().values()) == {"pending"}
    site.open_runner("new", config="current", **options).run(load.id)

    assert set(site.read_states().values()) == {"settled"}


def test_a_large_delivery_is_read_slice_by_slice(site: LoadSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_slices, "MAX_SLICE_RECORDS", 3)
    records: list[Any] = [{"id": str(n)} for n in range(10)]
    id_ = site.put(*records[:4], "1e999", *records[5:], number=1)
    site.process([id_])

    site.run_all()

    assert [row["_ordinal"] for row in site.read_rows()] == [n for n in range(10) if n != 4]
    outcome = site.read_outcome(id_)
    assert (outcome.state, outcome.written, outcome.dead, outcome.progress) == ("done", 9, 1, "")
    assert len(site.store.read(select(dead_records.c.ordinal))) == 1


def test_records_of_several_accounts_in_one_delivery_are_apart(store: Database, tmp_path: Path) -> None:
    site = LoadSite(store, lake_routes(tmp_path / "lake", route='account = "tenant"'), tmp_path / "lake")
    records = [{"id": str(n), "tenant": f"t{n % 3}"} for n in range(6)]
    site.process([site.put(*records, account="")])

    site.run_all()

    assert set(site.read_states().values()) == {"settled"}
    assert {name.split("/")[1] for name in site.list_files()} == {f"account=t{n}" for n in range(3)}
    assert sorted(row["_key"] for row in site.read_rows()) == [str(n) for n in range(6)]


def test_deliveries_of_a_sink_that_writes_no_loads_any_more_are_written_there(
    site: LoadSite, tmp_path: Path, redis: Redis
) -> None:
    ids = site.put_pages(3)
    site.process(ids)
    site.plan(max_bytes=1)
    changed = (
        f'[sinks.lake]\ntype = "sql"\nurl = "sqlite:///{tmp_path}/main.db"\n[[routes]]\nsinks = ["lake"]\n'
    )
    other = LoadSite(site.store, changed, tmp_path / "lake")

    LoadPlanner(site.store, DeliveryQueue(redis, "n"), other.routes).run_once()
    other.process(ids)

    assert set(site.read_states().values()) == {"settled"}
    assert count_loads(site.store) == 0
    assert not site.folder.exists()
    other.sinks.close()


def test_a_route_that_leaves_the_sink_out_gives_its_deliveries_back(site: LoadSite, tmp_path: Path) -> None:
    ids = site.put_pages(2)
    site.process(ids)
    load = site.plan()
    assert load is not None
    routes = lake_routes(tmp_path / "lake").replace(
        "[[routes]]", '[[routes]]\nresource = "crm/*"\nsinks = []\n[[routes]]'
    )
    other = LoadSite(site.store, routes, tmp_path / "lake")

    other.runner.run(load.id)

    assert set(site.read_states().values()) == {"pending"}
    assert other.plan() is None
    other.process(ids)
    assert set(site.read_states().values()) == {"settled"}
    assert not list(tmp_path.glob("lake/resource=*"))


def test_the_planner_begins_no_load_of_a_paused_sink_and_enqueues_others_once(
    site: LoadSite, redis: Redis
) -> None:
    site.process(site.put_pages(2))
    later = datetime.now(UTC) + timedelta(minutes=10)
    queue = DeliveryQueue(redis, "n")
    planner = LoadPlanner(site.store, queue, site.routes, clock=lambda: later)
    states = SinkStates(site.store)
    states.pause("lake", by="ada", reason="", now=NOW)
    planner.run_once()
    assert (count_loads(site.store), queue.count_queued()) == (0, 0)

    states.resume("lake")
    planner.run_once()
    planner.run_once()

    assert (count_loads(site.store), queue.count_queued()) == (1, 1)


@pytest.mark.parametrize(("workers", "enqueued"), [(0, 1), (1, 1), (2, 1), (3, 2), (9, 3)])
def test_loads_that_take_minutes_leave_a_worker_to_the_others(
    store: Database, redis: Redis, workers: int, enqueued: int
) -> None:
    names = ("a", "b", "c")
    warehouse = '[sinks.{0}]\ntype = "warehouse"\ndestination = "duckdb"\ncredentials = "/{0}.duckdb"\n'
    routes = "".join(map(warehouse.format, names)) + f"[[routes]]\nsinks = {json.dumps(names)}\n"
    queue = DeliveryQueue(redis, "n")
    for number in range(workers):
        redis.sadd(WORKERS_KEY.format(queue.name), f"w{number}")
    planner = LoadPlanner(
        store, queue, read_routes(routes, source="routes.toml", variables={}), clock=lambda: NOW
    )
    with store.transaction() as connection:
        for name in names:
            row = {"id": uuid4(), "sink": name, "planned_at": NOW, "due_at": NOW}
            connection.execute(loads.insert().values(**row, deliveries=1, body_bytes=1))

    planner.run_once()
    planner.run_once()

    assert queue.count_queued() == enqueued
