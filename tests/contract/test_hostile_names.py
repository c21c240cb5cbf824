"""Names in deliveries never leave their place: no statement, no folder and no file but those of the sink."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text

from app.config.routes import ColumnConfig, Route
from app.database.engine import open_engine
from app.errors import SinkRefused
from app.sinks.sql.sink import SqlSink
from app.truto.events import read_envelope
from app.truto.records import read_records
from tests.support.files import list_paths, open_files, read_rows
from tests.support.hostile_names import NAMES
from tests.support.sent_records import SentRecords, send, write

ROUTE = Route(sinks=("main",), table="contacts")


def receive(name: str, number: int) -> SentRecords:
    """Return a delivery with a name in all of its places, read as a worker reads it."""
    places = ("resource", "method", "integrated_account_id", "sync_job_id", "sync_job_run_id")
    records = [{"id": name, name: name, "nested": {name: [name]}}]
    payload: dict[str, Any] = {**dict.fromkeys(places, name), "records": records}
    body = json.dumps({"event": "sync_job_run:record", "payload": payload}).encode()
    envelope, batch = read_envelope(body), read_records(body)
    assert batch is not None
    sent = send(
        [value for _, value in batch.records],
        number=number,
        resource=envelope.resource,
        method=envelope.method,
        account=envelope.integrated_account_id,
        job=envelope.sync_job_id,
        run=envelope.sync_job_run_id,
    )
    return replace(sent, originals=batch.originals)


DELIVERIES = [receive(name, number) for number, name in enumerate(NAMES, start=1)]


@pytest.fixture
def database(sink_url: str) -> Iterator[Engine]:
    engine = open_engine(sink_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE victims (id integer)")
        connection.exec_driver_sql("INSERT INTO victims VALUES (1)")
    yield engine
    engine.dispose()


def count_rows(database: Engine, table: str) -> int:
    with database.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_no_account_key_or_field_leaves_its_row(sink_url: str, database: Engine) -> None:
    sink = SqlSink(sink_url)

    of_one_resource = [
        replace(delivery, header=replace(delivery.header, resource="crm/contacts")) for delivery in DELIVERIES
    ]
    results = [write(sink, delivery, ROUTE) for delivery in of_one_resource]

    assert all((result.written, list(result.rejected)) == (1, []) for result in results)
    assert count_rows(database, "victims") == 1
    accounts = [delivery.header.account for delivery in DELIVERIES]
    assert count_rows(database, "contacts") == len(NAMES)
    with database.connect() as connection:
        stored = connection.execute(text('SELECT "_account" FROM contacts')).scalars().all()
    assert sorted(stored) == sorted(accounts)
    for account in set(accounts):
        assert sink.erase(account) == accounts.count(account)
    assert count_rows(database, "contacts") == 0
    assert count_rows(database, "victims") == 1
    sink.close()


def test_no_resource_leaves_its_table(sink_url: str, database: Engine) -> None:
    sink = SqlSink(sink_url)
    refused = []

    for delivery in DELIVERIES:
        try:
            assert write(sink, delivery, Route(sinks=("main",))).written == 1
        except SinkRefused as error:
            # Two names of one table.
            refused.append(error.reason)
    sink.close()

    tables = set(inspect(database).get_table_names())
    assert set(refused) == {"table_collision"}
    assert count_rows(database, "victims") == 1
    assert all(len(table.encode()) <= 63 and table.replace("_", "").isalnum() for table in tables)
    own = tables - {"victims", "rapidbridge_sink_tables", "rapidbridge_sink_views"}
    assert len(own) + len(refused) == len({delivery.header.resource for delivery in DELIVERIES})
    assert sum(count_rows(database, f'"{table}"') for table in own) == len(DELIVERIES) - len(refused)


@pytest.mark.parametrize("name", ["'; DROP TABLE victims; --", '"', "%s %", ":a", "\\", "\u202e", "x" * 500])
def test_no_path_of_a_column_leaves_its_comment(sink_url: str, database: Engine, name: str) -> None:
    sink = SqlSink(sink_url)
    route = ROUTE.model_copy(update={"columns": {"field": ColumnConfig(type="text", path=name)}})

    assert write(sink, send([{"id": "1", name: "value"}]), route).written == 1
    sink.close()

    with database.connect() as connection:
        assert connection.execute(text('SELECT "field" FROM contacts')).scalar_one() == "value"
    assert count_rows(database, "victims") == 1


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_no_resource_or_account_leaves_the_folder(tmp_path: Path, form: str) -> None:
    lake, victim = tmp_path / "lake", tmp_path / "victim"
    victim.write_text("untouched")
    sink = open_files(lake, format=form)

    for delivery in DELIVERIES:
        assert write(sink, delivery, ROUTE).written == 1

    paths = list_paths(tmp_path)
    assert [path for path in paths if lake not in path.parents] == [victim]
    assert victim.read_text() == "untouched"
    files = [path for path in paths if path != victim]
    assert len(files) == len(NAMES)
    for path in files:
        folders = path.relative_to(lake).parts
        assert [part.partition("=")[0] for part in folders[:-1]] == ["resource", "account", "dt"]
        assert all(
            len(os.fsencode(part)) <= 255 and part.isascii() and part.isprintable() for part in folders
        )
    accounts = [row["_account"] for path in files for row in read_rows(path.name, path.read_bytes())]
    assert sorted(accounts) == sorted(delivery.header.account for delivery in DELIVERIES)
    for account in set(accounts):
        assert sink.erase(account) == accounts.count(account)
    assert list_paths(tmp_path) == [victim]
