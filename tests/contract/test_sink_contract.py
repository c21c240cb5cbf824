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
from sqlalchemy import inspect, text

from app.cli.local.ports import find_free_port
from app.database.engine import open_engine
from app.sink_contract import RESOURCE, SinkContract
from app.sinks.base import Sink
from app.sinks.files import FilesSink
from app.sinks.http import HttpSink
from app.sinks.sql.sink import SqlSink
from app.truto.records import decode_json, to_json
from tests.support.documentation import ROOT, read_marked_block
from tests.support.mariadb import MariaDbServer
from tests.support.record_endpoint import ReceivedRecords, RecordEndpoint

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
    @pytest.fixture
    def sink(self, tmp_path: Path) -> Sink:
        (tmp_path / "lake").mkdir()
        return FilesSink(f"file://{tmp_path}/lake")

    @pytest.fixture
    def read_records(self, tmp_path: Path) -> ReadRecords:
        def read() -> dict[tuple[str, str], Any]:
            paths = (tmp_path / "lake").glob("resource=crm%2Fcontacts/**/*.jsonl")
            lines = [decode_json(line) for path in paths for line in path.read_text().splitlines()]
            newest = {
                (line["_account"], line["_key"]): line
                for line in sorted(lines, key=lambda line: (line["_version"], line["_vseq"]))
            }
            return {
                place: to_json(line["data"]) for place, line in newest.items() if not line["_is_deletion"]
            }

        return read

    @pytest.fixture
    def unreachable_sink(self, tmp_path: Path) -> Sink:
        (tmp_path / "file").write_text("")
        return FilesSink(f"file://{tmp_path}/file/lake")


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
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{memory_folder}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert re.search(r"^2\d passed, 1 skipped", ran.stdout, re.MULTILINE), ran.stdout + ran.stderr
