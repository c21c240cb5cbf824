"""The contract suite, run over every sink."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Message
from sqlalchemy import inspect, text

from app.cli.local.ports import find_free_port
from app.config.sinks import WarehouseSinkConfig
from app.database.engine import open_engine
from app.sink_contract import RESOURCE, SinkContract
from app.sinks.base import AnySink, Sink
from app.sinks.http import HttpSink
from app.sinks.kafka import KafkaSink
from app.sinks.sql.sink import SqlSink
from tests.support.documentation import ROOT, read_marked_block
from tests.support.files import open_files, read_newest
from tests.support.kafka import KafkaServer, TopicReader, read_headers
from tests.support.mariadb import MariaDbServer
from tests.support.record_endpoint import ReceivedRecords, RecordEndpoint
from tests.support.warehouse import DltForks, configure_duckdb, query

ReadRecords = Callable[[], dict[tuple[str, str], Any]]


class SqlContract(SinkContract):
    """The suite for a SQL database. A subclass provides the fixture `url`, of an empty database."""

    @pytest.fixture
    def sink(self, url: str) -> Iterator[Sink]:
        sink = SqlSink(url)
        yield sink
        sink.close()

    @pytest.fixture
    def read_records(self, url: str) -> Iterator[ReadRecords]:
        engine = open_engine(url)
        data = 'CAST("data" AS text)' if engine.dialect.name == "postgresql" else '"data"'
        query = text(f'SELECT "_account", "_key", {data} FROM crm_contacts WHERE "_deleted_at" IS NULL')

        def read() -> dict[tuple[str, str], Any]:
            if not inspect(engine).has_table("crm_contacts"):
                return {}
            with engine.connect() as connection:
                return {(account, key): data for account, key, data in connection.execute(query)}

        yield read
        engine.dispose()


class TestPostgreSQL(SqlContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    @pytest.fixture
    def unreachable_sink(self, tmp_path: Path) -> Iterator[Sink]:
        sink = SqlSink(f"postgresql://nobody@/none?host={tmp_path}")
        yield sink
        sink.close()


class TestSQLite(SqlContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/sink.db"

    @pytest.fixture
    def unreachable_sink(self, tmp_path: Path) -> Iterator[Sink]:
        (tmp_path / "folder.db").mkdir()
        sink = SqlSink(f"sqlite:///{tmp_path}/folder.db")
        yield sink
        sink.close()


class TestMariaDB(SqlContract):
    @pytest.fixture
    def url(self, mariadb: MariaDbServer) -> Iterator[str]:
        with mariadb.database() as url:
            yield url

    @pytest.fixture
    def unreachable_sink(self) -> Iterator[Sink]:
        # Not a socket file: the driver leaves the socket of a failed attempt to the garbage collector.
        sink = SqlSink(f"mysql://nobody@127.0.0.1:{find_free_port()}/none")
        yield sink
        sink.close()


class TestFiles(SinkContract):
    @pytest.fixture(params=[("jsonl", "gzip"), ("parquet", "zstd")], ids=lambda keys: keys[0])
    def sink(self, request: pytest.FixtureRequest, tmp_path: Path) -> AnySink:
        (tmp_path / "lake").mkdir()
        form, compression = request.param
        return open_files(tmp_path / "lake", format=form, compression=compression)

    @pytest.fixture
    def read_records(self, tmp_path: Path) -> ReadRecords:
        return lambda: read_newest(tmp_path / "lake" / "resource=crm%2Fcontacts")

    @pytest.fixture
    def unreachable_sink(self, tmp_path: Path) -> AnySink:
        (tmp_path / "file").write_text("")
        return open_files(tmp_path / "file" / "lake")


class TestDuckDB(SinkContract):
    @pytest.fixture
    def sink(self, tmp_path: Path, dlt_forks: DltForks) -> AnySink:
        return dlt_forks.open_sink(configure_duckdb(tmp_path / "warehouse.duckdb"))

    @pytest.fixture
    def read_records(self, tmp_path: Path) -> ReadRecords:
        file = tmp_path / "warehouse.duckdb"
        return lambda: {
            (account, key): data
            for account, key, data in query(file, "SELECT _account, _key, data FROM truto.crm_contacts")
        }

    @pytest.fixture
    def unreachable_sink(self, dlt_forks: DltForks) -> AnySink:
        url = f"clickhouse://nobody:pw@127.0.0.1:{find_free_port()}/none?secure=0&connect_timeout=2"
        table = {"type": "warehouse", "destination": "clickhouse", "credentials": url}
        return dlt_forks.open_sink(WarehouseSinkConfig.model_validate(table))


class DocumentedEndpoint(RecordEndpoint):
    """The endpoint of docs/sinks.md, which stores records in PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._code: dict[str, Any] = {}
        self._text = read_marked_block("docs/sinks.md", "http endpoint")
        exec(self._text, self._code)  # of our own docs
        self.connection = psycopg.connect(url, autocommit=True)
        self.connection.execute(self._text.partition("# ")[2].partition("\n")[0])
        super().__init__()

    def store(self, request: ReceivedRecords) -> None:
        if request.body["resource"] == RESOURCE:
            self._code["store"](request.raw, self.connection)

    def close(self) -> None:
        super().close()
        self.connection.close()


class TestHttp(SinkContract):
    can_erase = False
    can_count = False

    @pytest.fixture
    def endpoint(self, postgres_url: str) -> Iterator[DocumentedEndpoint]:
        with contextlib.closing(DocumentedEndpoint(postgres_url)) as endpoint:
            yield endpoint

    @pytest.fixture
    def sink(self, endpoint: DocumentedEndpoint) -> Sink:
        return endpoint.sink

    @pytest.fixture
    def read_records(self, endpoint: DocumentedEndpoint) -> ReadRecords:
        query = "SELECT account, key, CAST(data AS text) FROM contacts WHERE data IS NOT NULL"
        return lambda: {(account, key): data for account, key, data in endpoint.connection.execute(query)}

    @pytest.fixture
    def unreachable_sink(self, endpoint: DocumentedEndpoint) -> Iterator[Sink]:
        sink = HttpSink(endpoint.configure(url=f"http://127.0.0.1:{find_free_port()}"))
        yield sink
        sink.close()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    server.create_topic("crm-contacts")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def kafka_sink(kafka: KafkaServer) -> Iterator[KafkaSink]:
    sink = KafkaSink(kafka.configure())
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def kafka_reader(kafka: KafkaServer) -> Iterator[TopicReader]:
    reader = TopicReader(kafka.brokers, "crm-contacts")
    yield reader
    reader.close()


class TestKafka(SinkContract):
    can_erase = False
    can_count = False

    @pytest.fixture
    def sink(self, kafka_sink: KafkaSink) -> Sink:
        return kafka_sink

    @pytest.fixture
    def read_records(self, kafka_reader: TopicReader) -> ReadRecords:
        # Instead of an empty topic for each test.
        kafka_reader.read_new()
        read_so_far: list[Message] = []

        def read() -> dict[tuple[str, str], Any]:
            newest: dict[tuple[str, str], tuple[tuple[str, str], Any]] = {}
            read_so_far.extend(kafka_reader.read_new())
            for message in read_so_far:
                headers = read_headers(message)
                place = (headers["account"], headers["key"])
                order = (headers["version"], headers["sequence"])
                if place not in newest or order > newest[place][0]:
                    newest[place] = order, (headers, message.value())
            return {
                place: value.decode()
                for place, (_, (headers, value)) in newest.items()
                if headers["deleted"] == "false"
            }

        return read

    @pytest.fixture
    def unreachable_sink(self, kafka: KafkaServer) -> Iterator[Sink]:
        sink = KafkaSink(kafka.configure(brokers=f"127.0.0.1:{find_free_port()}"))
        yield sink
        sink.close()


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder in memory, if there is one: the documented sink syncs its file for each batch."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def test_the_documented_sink_passes_the_documented_suite(memory_folder: Path) -> None:
    (memory_folder / "contacts_sink.py").write_text(read_marked_block("docs/sinks.md", "python sink"))
    (memory_folder / "test_contacts_sink.py").write_text(read_marked_block("docs/sinks.md", "sink contract"))
    (memory_folder / "pytest.ini").write_text("[pytest]\n")

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=memory_folder,
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTHONPATH": f"{ROOT}{os.pathsep}{memory_folder}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert re.search(r"^2\d passed, 1 skipped", ran.stdout, re.MULTILINE), ran.stdout + ran.stderr
