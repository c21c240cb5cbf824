"""Loads in an object store: a server of the S3 protocol over real connections."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from app.config.routes import Route
from app.config.sinks import FilesSinkConfig
from app.database.engine import Database, open_database
from app.errors import SinkRefused, SinkUnavailable
from app.sinks.files import object_store
from app.sinks.probe import probe_sink
from app.store.migrate import migrate
from app.store.schema import loads, sink_states
from app.store.sink_status import list_failing_sinks
from tests.support.files import open_files, read_rows
from tests.support.load_site import NOW, LoadSite, lake_routes
from tests.support.s3_server import S3Server
from tests.support.sent_records import send, write

ROUTE = Route(sinks=("lake",))
BUCKET = "lake"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client with an empty bucket, in the environment of the server's place."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    yield client
    server.clear()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LoadSite]:
    store = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(store)
    yield LoadSite(store, lake_routes(f"s3://{BUCKET}/raw"), tmp_path / "none")
    store.close()


def list_objects(client: Any) -> list[str]:
    return [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def read_object(client: Any, name: str) -> bytes:
    return bytes(client.get_object(Bucket=BUCKET, Key=name)["Body"].read())


@pytest.mark.parametrize(("form", "compression"), [("jsonl", "gzip"), ("jsonl", "zstd"), ("parquet", "gzip")])
def test_a_load_is_one_object_for_each_partition(s3: Any, form: str, compression: str) -> None:
    sink = open_files(f"s3://{BUCKET}/raw data", format=form, compression=compression)
    account = "../../x" + "é" * 200

    write(sink, send([{"id": "1"}, {"id": "2"}], account=account, resource="select"), ROUTE)

    [name] = list_objects(s3)
    assert name.startswith("raw data/resource=select/account=%2E%2E%2F%2E%2E%2Fx%C3%A9")
    rows = read_rows(name, read_object(s3, name))
    assert [(row["_account"], row["_key"], row["data"]["id"]) for row in rows] == [
        (account, "1", "1"),
        (account, "2", "2"),
    ]
    assert (sink.count(account), sink.count("other"), sink.count("")) == (1, 0, 0)


def test_a_large_file_is_a_completed_multipart_upload(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_PART_BYTES", 5 * 1024 * 1024)
    sink = open_files(f"s3://{BUCKET}/raw", compression="none")

    write(sink, send([{"id": str(n), "text": "x" * 1_000_000} for n in range(12)]), ROUTE)

    [name] = list_objects(s3)
    assert s3.head_object(Bucket=BUCKET, Key=name)["ETag"].endswith('-3"')
    assert len(read_rows(name, read_object(s3, name))) == 12


def test_a_repeated_load_replaces_its_objects(s3: Any) -> None:
    sink = open_files(f"s3://{BUCKET}/raw")
    earlier = ""
    for accounts in (("a", "b"), ("b", "c")):
        writer = sink.begin_load(UUID(int=1))
        for account in accounts:
            writer.add(send([{"id": "1"}], account=account).build_batch(ROUTE), ROUTE)
        prepared = writer.prepare()
        writer.commit(earlier=earlier)
        writer.close()
        earlier = prepared

    assert [name.split("/")[2] for name in list_objects(s3)] == ["account=b", "account=c"]


def test_an_erasure_removes_the_objects_of_one_account(s3: Any) -> None:
    sink = open_files(f"s3://{BUCKET}/raw")
    for number, (account, resource) in enumerate([("a", "x"), ("a", "y"), ("ab", "x"), ("", "x")]):
        sent = send([{"id": "1"}], number=number, account=account, resource=resource)
        write(sink, sent, ROUTE)

    assert sink.erase("a") == 2

    assert {name.split("/")[2] for name in list_objects(s3)} == {"account=ab", "account=_none"}
    assert (sink.count("a"), sink.count("ab"), sink.count("")) == (0, 1, 1)


def test_a_missing_bucket_waits_for_a_person(s3: Any) -> None:
    with pytest.raises(SinkRefused, match="the bucket does not exist"):
        write(open_files("s3://nobucket/raw"), send([{"id": "1"}]), ROUTE)
    probe_sink(FilesSinkConfig(type="files", url=f"s3://{BUCKET}/raw"))
    with pytest.raises(SinkUnavailable, match="the bucket does not exist"):
        probe_sink(FilesSinkConfig(type="files", url="s3://nobucket/raw"))


def test_a_store_that_is_away_holds_its_loads_and_loses_nothing(
    s3: Any, server: S3Server, site: LoadSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(object_store._RETRY_CONFIG, "max_retries", 0)
    site.process(site.put_pages(3))
    load = site.plan()
    assert load is not None
    server.stop()
    for _ in range(3):
        site.runner.run(load.id)
        make_due(site.store)
    assert set(site.read_states().values()) == {"pending"}
    [failing] = list_failing_sinks(site.store)
    assert (failing.sink, failing.reason, failing.loading.number) == ("lake", "sink_unavailable", 3)
    assert "does not answer" in failing.message
    assert "test" not in failing.message

    server.start()
    # The worker trusts what it has read for a second.
    site.open_runner("other").run(load.id)

    assert set(site.read_states().values()) == {"settled"}
    [name] = list_objects(s3)
    assert len(read_rows(name, read_object(s3, name))) == 3
    assert list_failing_sinks(site.store) == []


def make_due(store: Database) -> None:
    """End the backoff of all loads, and let the breaker try."""
    store.execute(update(loads).values(leased_until=None))
    store.execute(update(sink_states).values(retry_at=NOW))


def test_a_server_that_never_answers_ends_within_the_job(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setitem(object_store._CLIENT_OPTIONS, "timeout", "500ms")
        sink = open_files(f"s3://{BUCKET}/raw")
        began_s = time.monotonic()
        with pytest.raises(SinkUnavailable, match="does not answer"):
            write(sink, send([{"id": "1"}]), ROUTE)

    assert time.monotonic() - began_s < 10


def test_a_thousand_small_deliveries_are_few_objects(s3: Any, site: LoadSite) -> None:
    site.process(site.put_pages(1000))

    assert site.run_all() == 1

    [name] = list_objects(s3)
    assert len(read_rows(name, read_object(s3, name))) == 1000
    assert set(site.read_states().values()) == {"settled"}
