"""The warehouse sink on DuckDB: repeated loads, names, columns, errors, and processes that end."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import select

from app.cli.local.ports import find_free_port
from app.config.routes import ColumnConfig, Route
from app.config.sinks import WarehouseSinkConfig
from app.database.engine import Database
from app.errors import JobTimeout, SinkRefused, SinkUnavailable
from app.redis.queue import LONG_LOAD_FUNCTION, DeliveryQueue
from app.sink_contract.sent_records import SentRecords, send, write, write_together
from app.sinks import registry
from app.sinks.probe import probe_sink
from app.sinks.warehouse.dlt_client import DltClient
from app.sinks.warehouse.names import name_tables
from app.sinks.warehouse.sink import WarehouseSink
from app.store.load_results import LoadResults
from app.store.schema import loads
from tests.support.load_site import NOW, LoadSite
from tests.support.waiting import wait_until
from tests.support.warehouse import DltForks, configure_duckdb, open_duckdb, query
from workers.background.load_planner import LoadPlanner
from workers.jobs import DeliveryJob

ROUTE = Route(sinks=("dw",))
LOAD = UUID(int=7)
CHANGES = "SELECT _key, data FROM truto.crm_contacts_changes ORDER BY _key, data"
VIEW = "SELECT _account, _key, data FROM truto.crm_contacts ORDER BY _account, _key"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.duckdb"


@pytest.fixture
def sink(file: Path, dlt_forks: DltForks) -> WarehouseSink:
    return dlt_forks.open_sink(configure_duckdb(file))


@pytest.fixture
def silent_server() -> Iterator[int]:
    """Yield the port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def attempt(
    sink: WarehouseSink, *sent: SentRecords, earlier: str = "", route: Route = ROUTE, commits: bool = True
) -> str:
    """Write deliveries in one attempt at the same load; return its prepared text."""
    with contextlib.closing(sink.begin_load(LOAD)) as writer:
        for one in sent:
            writer.add(one.build_batch(route), route)
        prepared = writer.prepare()
        if commits:
            writer.commit(earlier=earlier)
    return prepared


def configure_clickhouse(port: int, **keys: Any) -> WarehouseSinkConfig:
    url = f"clickhouse://nobody:the-password@127.0.0.1:{port}/none?secure=0"
    return WarehouseSinkConfig.model_validate(
        {"type": "warehouse", "destination": "clickhouse", "credentials": url} | keys
    )


def test_a_load_that_was_committed_in_part_leaves_each_row_once(sink: WarehouseSink, file: Path) -> None:
    first, second = send([{"id": "1", "n": 1}]), send([{"id": "2", "n": 2}], number=2, resource="crm/deals")
    third = send([{"id": "3", "n": 3}], number=3)

    # The worker dies after the first delivery is in its table.
    prepared = attempt(sink, first)
    assert query(file, CHANGES) == [("1", '{"id":"1","n":1}')]
    for _ in range(2):
        prepared = attempt(sink, first, second, third, earlier=prepared)

    assert query(file, CHANGES) == [("1", '{"id":"1","n":1}'), ("3", '{"id":"3","n":3}')]
    assert query(file, "SELECT _key FROM truto.crm_deals_changes") == [("2",)]
    # An erasure left out all records of the load.
    attempt(sink, earlier=prepared)
    assert query(file, CHANGES) == []


def test_an_attempt_that_was_not_committed_writes_nothing(sink: WarehouseSink, file: Path) -> None:
    prepared = attempt(sink, send([{"id": "1", "n": 1}]), commits=False)
    assert not file.exists()

    attempt(sink, send([{"id": "1", "n": 1}]), earlier=prepared)

    assert query(file, CHANGES) == [("1", '{"id":"1","n":1}')]


def test_rows_that_exist_twice_count_once_and_the_last_attempt_wins(sink: WarehouseSink, file: Path) -> None:
    changed = ROUTE.model_copy(update={"drop": ("secret",)})
    sent = send([{"id": "1", "secret": "x"}])

    # As after a worker that lost its lease and writes at the same time.
    attempt(sink, sent)
    attempt(sink, sent, route=changed)

    assert len(query(file, CHANGES)) == 2
    assert query(file, VIEW) == [("a1", "1", '{"id":"1"}')]


def test_names_of_any_kind_are_safe_and_resources_are_apart(sink: WarehouseSink, file: Path) -> None:
    names = [
        *(
            "select",
            "x" * 200,
            "../../x",
            "crm/Contacts",
            "crm/contacts",
            "CRM contacts",
            "é",
            "",
            "2024",
            "%s",
        ),
        *(
            "contacts",
            "contacts_changes",
            "contacts-changes",
            "_dlt_version",
            "_dlt_loads",
            "table\"'--",
            "_1",
        ),
    ]

    sent = [send([{"id": "1", "of": name}], number=n, resource=name) for n, name in enumerate(names, start=1)]
    assert write_together(sink, sent, ROUTE) == len(names)

    views = {name_tables(name, ROUTE).view for name in names}
    stored = [row for view in views for row in query(file, f'SELECT _resource, data FROM truto."{view}"')]
    assert {resource: json.loads(data)["of"] for resource, data in stored} == {name: name for name in names}
    assert len(stored) == len(names)
    assert sink.count("a1") == len(names)


def test_typed_columns_of_a_route_are_added_and_misfits_are_counted(sink: WarehouseSink, file: Path) -> None:
    plain, typed = (
        ROUTE,
        ROUTE.model_copy(
            update={"columns": {"amount": ColumnConfig(type="integer"), "at": ColumnConfig(type="timestamp")}}
        ),
    )
    write(sink, send([{"id": "1", "amount": 5}]), plain)

    result = write(
        sink,
        send([{"id": "2", "amount": 5, "at": "2026-01-01T00:00:00Z"}, {"id": "3", "amount": "x"}], number=2),
        typed,
    )
    write(sink, send([{"id": "4"}], number=3), plain)

    assert result.misfits == {"amount": 1}
    rows = query(
        file, 'SELECT _key, amount, CAST(epoch("at") AS bigint) FROM truto.crm_contacts ORDER BY _key'
    )
    assert rows == [("1", None, None), ("2", 5, 1767225600), ("3", None, None), ("4", None, None)]


def test_every_type_of_column_keeps_its_value(sink: WarehouseSink, file: Path) -> None:
    names = ("text", "integer", "number", "decimal", "boolean", "timestamp", "date", "json")
    columns = {f"c_{name}": ColumnConfig.model_validate({"type": name}) for name in names}
    values: list[Any] = ["é", -(2**63), 1.5, "12345678901234567890.000000000000000001", True]
    values += ["2026-01-01T00:00:00.000001+02:00", "2026-01-02", {"a": [1]}]

    record = {"id": "1", **dict(zip(columns, values, strict=True))}
    assert write(sink, send([record]), ROUTE.model_copy(update={"columns": columns})).misfits == {}

    [row] = query(file, f"SELECT {', '.join(columns)} FROM truto.crm_contacts")
    assert row[:4] == ("é", -(2**63), 1.5, Decimal("12345678901234567890.000000000000000001"))
    assert (row[4], row[5], row[6]) == (True, datetime(2025, 12, 31, 22, 0, 0, 1, UTC), date(2026, 1, 2))
    assert json.loads(row[7]) == {"a": [1]}


def test_a_column_of_another_type_holds_the_load_without_its_data(sink: WarehouseSink, file: Path) -> None:
    def typed(name: str) -> Route:
        return ROUTE.model_copy(update={"columns": {"amount": ColumnConfig.model_validate({"type": name})}})

    write(sink, send([{"id": "1", "amount": 5}]), typed("integer"))

    with pytest.raises(SinkRefused, match="another type") as refused:
        write(sink, send([{"id": "2", "amount": "the-secret"}], number=2), typed("text"))

    assert "the-secret" not in str(refused.value)
    assert query(file, VIEW) == [("a1", "1", '{"id":"1","amount":5}')]


def test_a_view_that_a_person_dropped_comes_back(sink: WarehouseSink, file: Path) -> None:
    write(sink, send([{"id": "1"}]), ROUTE)
    with duckdb.connect(str(file)) as connection:
        connection.execute("DROP VIEW truto.crm_contacts")

    write(sink, send([{"id": "2"}], number=2), ROUTE)

    assert [key for _, key, _ in query(file, VIEW)] == ["1", "2"]


def test_a_table_that_a_person_dropped_comes_back_with_the_repeated_load(
    sink: WarehouseSink, file: Path
) -> None:
    write(sink, send([{"id": "1"}]), ROUTE)
    with duckdb.connect(str(file)) as connection:
        connection.execute("DROP VIEW truto.crm_contacts; DROP TABLE truto.crm_contacts_changes")
    sent = send([{"id": "2"}], number=2)

    with pytest.raises(SinkUnavailable, match="a table is missing"):
        attempt(sink, sent)
    attempt(sink, sent, earlier="prepared")

    assert [key for _, key, _ in query(file, VIEW)] == ["2"]


def test_an_erasure_does_not_miss_tables_that_dlt_has_forgotten(sink: WarehouseSink, file: Path) -> None:
    write(sink, send([{"id": "1"}]), ROUTE)
    with duckdb.connect(str(file)) as connection:
        connection.execute("DELETE FROM truto._dlt_version; DELETE FROM truto._dlt_pipeline_state")

    for ask in (sink.count, sink.erase):
        with pytest.raises(SinkRefused, match="the tables are unknown"):
            ask("a1")


def test_a_warehouse_without_a_load_has_no_rows(sink: WarehouseSink, file: Path) -> None:
    duckdb.connect(str(file)).close()

    assert (sink.count("a1"), sink.erase("a1")) == (0, 0)


def test_a_file_that_another_process_has_open_is_retried(sink: WarehouseSink, file: Path) -> None:
    write(sink, send([{"id": "1"}]), ROUTE)
    reader = f"import duckdb, sys; open_one = duckdb.connect({str(file)!r}); print(1, flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", reader], stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(SinkUnavailable, match="another process has the file open"):
            write(sink, send([{"id": "2"}], number=2), ROUTE)
        assert process.stdin
        process.stdin.close()

    write(sink, send([{"id": "2"}], number=2), ROUTE)
    assert len(query(file, VIEW)) == 2


def test_loads_at_the_same_time_lose_nothing(sink: WarehouseSink, file: Path) -> None:
    def write_one(number: int) -> int:
        try:
            return write(sink, send([{"id": str(number)}], number=number), ROUTE).written
        except SinkUnavailable:
            return 0

    waiting, rounds = {1, 2, 3}, 0
    with ThreadPoolExecutor(3) as pool:
        while waiting and rounds < 5:
            numbers, rounds = sorted(waiting), rounds + 1
            waiting -= {
                n for n, written in zip(numbers, pool.map(write_one, numbers), strict=True) if written
            }

    assert not waiting
    assert [key for _, key, _ in query(file, VIEW)] == ["1", "2", "3"]


def test_a_missing_file_or_folder_is_no_empty_warehouse(tmp_path: Path) -> None:
    sink = open_duckdb(tmp_path / "missing" / "warehouse.duckdb")

    for ask in (sink.count, sink.erase):
        with pytest.raises(SinkUnavailable, match="is missing"):
            ask("a1")
    with pytest.raises(SinkRefused, match="is missing; create it"):
        sink.begin_load(LOAD)


def test_dlt_reads_and_writes_no_files_of_the_machine(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".dlt").mkdir(parents=True)
    for name in ("config.toml", "secrets.toml"):
        (home / ".dlt" / name).write_text('[schema]\nnaming = "direct"\n[load]\nworkers = "none"\n')
    for module in ("dlt.py", "json.py", "app.py"):
        (home / module).write_text("raise SystemExit(3)")
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    before = sorted(home.rglob("*"))

    write(open_duckdb(file), send([{"id": "1"}]), ROUTE)

    assert sorted(home.rglob("*")) == before
    assert query(file, VIEW) == [("a1", "1", '{"id":"1"}')]


def test_a_server_that_does_not_answer_is_given_up_at_the_deadline(
    silent_server: int, tmp_path: Path
) -> None:
    config = configure_clickhouse(silent_server)
    began_s = time.monotonic()

    with pytest.raises(SinkUnavailable, match="did not answer within 3 s") as failure:
        DltClient(config).run("count", tmp_path, timeout_s=3, account="the-account")

    assert time.monotonic() - began_s < 15
    assert not any(secret in str(failure.value) for secret in ("the-password", "the-account"))
    assert list_processes(tmp_path) == []


def test_an_interrupted_job_ends_its_load(silent_server: int, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise JobTimeout("the job timed out")

    # Perhaps at the moment when the process has just been started.
    main = threading.main_thread().ident or 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(
                wait_until, lambda: len(list_processes(tmp_path)) == 1, interval_s=0
            ).add_done_callback(lambda _: signal.pthread_kill(main, signal.SIGALRM))
            with pytest.raises(JobTimeout):
                DltClient(configure_clickhouse(silent_server)).run(
                    "count", tmp_path, timeout_s=60, account="a"
                )
    finally:
        signal.signal(signal.SIGALRM, before)

    wait_until(lambda: list_processes(tmp_path) == [])


def test_a_load_ends_with_the_worker_that_was_killed(silent_server: int, tmp_path: Path) -> None:
    table = {"type": "warehouse", "destination": "clickhouse"}
    table["credentials"] = f"clickhouse://nobody@127.0.0.1:{silent_server}/none?secure=0"
    script = (
        "from pathlib import Path; from app.config.sinks import WarehouseSinkConfig; "
        "from app.sinks.warehouse.dlt_client import DltClient; "
        f"DltClient(WarehouseSinkConfig.model_validate({table!r}))"
        f".run('count', Path({str(tmp_path)!r}), timeout_s=60, account='a')"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as worker:
        wait_until(lambda: len(list_processes(tmp_path)) == 1)
        worker.kill()

        wait_until(lambda: list_processes(tmp_path) == [])


def list_processes(folder: Path) -> Sequence[int]:
    """Return the processes of dlt whose folder this is."""
    marker = f"DLT_DATA_DIR={folder}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if marker in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("size", [65_535, 65_536])
def test_a_record_that_the_destination_cannot_hold_is_rejected_alone(size: int) -> None:
    sink = WarehouseSink(
        WarehouseSinkConfig.model_validate(
            {"type": "warehouse", "destination": "redshift", "credentials": "redshift://nobody@127.0.0.1/db"}
        )
    )
    empty = len('{"id":"1","é":"é"}'.encode()) - 2
    sent = send([{"id": "1", "é": "x" * (size - empty)}, {"id": "2"}])

    with contextlib.closing(sink.begin_load(LOAD)) as writer:
        result = writer.add(sent.build_batch(ROUTE), ROUTE)

    assert [(one.ordinal, one.reason) for one in result.rejected] == [(0, "too_large")][: size - 65_535]
    assert result.written == 2 - len(result.rejected)


def test_the_place_and_the_secrets_of_a_sink_are_apart(file: Path) -> None:
    config = configure_clickhouse(9440)

    assert config.place == "clickhouse://127.0.0.1/truto"
    assert "the-password" not in repr(config)
    assert configure_duckdb(file).place == f"duckdb://{file}/truto"


def test_a_probe_reaches_the_destination(file: Path) -> None:
    assert probe_sink(configure_duckdb(file)) == file.parent
    with pytest.raises(SinkUnavailable, match="cannot be reached, or refuses the login") as failure:
        probe_sink(configure_clickhouse(find_free_port()))
    assert "the-password" not in str(failure.value)


@pytest.mark.parametrize(
    ("destination", "credentials", "advice"),
    [
        ("snowflake", "snowflake://u:the-password@a/db", r"run: pip install 'dlt\[snowflake\]'"),
        ("clickhouse", "", "credentials are incomplete or invalid.*ConfigFieldMissingException: credentials"),
    ],
)
def test_a_destination_that_cannot_be_used_is_refused_with_the_next_step(
    destination: str, credentials: str, advice: str
) -> None:
    table = {"type": "warehouse", "destination": destination, "credentials": credentials}

    with pytest.raises(SinkRefused, match=advice) as refused:
        probe_sink(WarehouseSinkConfig.model_validate(table))

    assert "the-password" not in str(refused.value)


@pytest.fixture
def site(store: Database, file: Path, dlt_forks: DltForks, monkeypatch: pytest.MonkeyPatch) -> LoadSite:
    monkeypatch.setattr(registry, "open_warehouse", dlt_forks.open_sink)
    table = f'[sinks.dw]\ntype = "warehouse"\ndestination = "duckdb"\ncredentials = "{file}"\n'
    return LoadSite(store, f'{table}[[routes]]\nsinks = ["dw"]\n', file.parent)


def test_a_load_whose_worker_dies_before_it_is_settled_leaves_each_row_once(
    site: LoadSite, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.process(site.put_pages(3))
    load = site.plan(sink="dw")
    assert load is not None

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LoadResults, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            site.runner.run(load.id)
    assert set(site.read_states().values()) == {"pending"}
    assert len(query(file, CHANGES)) == 3

    site.loads.release_worker("w", now=datetime.now(UTC))
    site.open_runner("other").run(load.id)

    assert set(site.read_states().values()) == {"settled"}
    assert [key for key, _ in query(file, CHANGES)] == ["0000", "0001", "0002"]


def test_deliveries_are_settled_once_their_rows_are_in_the_warehouse(
    site: LoadSite, store: Database, redis: Redis, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = site.put_pages(6)
    planner = LoadPlanner(
        store, DeliveryQueue(redis, "n"), site.routes, clock=lambda: NOW + timedelta(hours=1)
    )
    site.process(ids[:3])
    planner.run_once()
    # As a worker reads it.
    monkeypatch.setattr(DeliveryJob, "queue_name", DeliveryQueue(redis, "n").name)
    [job] = Queue(DeliveryJob.queue_name, redis, serializer=JSONSerializer, job_class=DeliveryJob).jobs
    assert (job.func_name, job.timeout) == (LONG_LOAD_FUNCTION, 300)
    site.process(ids[3:])
    # A load at a time: two would lock each other out.
    planner.run_once()
    [first] = [row.id for row in store.read(select(loads.c.id))]

    site.runner.run(first)
    planner.run_once()
    [second] = [row.id for row in store.read(select(loads.c.id))]
    site.runner.run(second)

    assert set(site.read_states().values()) == {"settled"}
    assert [key for _, key, _ in query(file, VIEW)] == [f"{n:04d}" for n in range(6)]
    assert site.sinks.open_any("dw").count("a") == 6
