"""The SQL sink on Debian's PostgreSQL, which is older than that of the other tests.

tests/integration/test_tls.py runs the whole service on it.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app.sinks.base import Sink
from app.sinks.sql.sink import SqlSink
from tests.contract.test_sink_contract import SqlContract
from tests.support.postgres import PostgresServer, find_debian_postgres


@pytest.fixture(scope="module")
def older_postgres() -> Iterator[PostgresServer]:
    binaries = find_debian_postgres()
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PostgresServer(Path(folder), binaries=binaries)
        yield server
        server.stop()


def test_the_server_is_older(older_postgres: PostgresServer, postgres: PostgresServer) -> None:
    with (
        psycopg.connect(older_postgres.url("postgres")) as older,
        psycopg.connect(postgres.url("postgres")) as newest,
    ):
        assert 130000 <= older.info.server_version < newest.info.server_version


class TestOlderPostgreSQL(SqlContract):
    @pytest.fixture
    def url(self, older_postgres: PostgresServer) -> Iterator[str]:
        with older_postgres.database() as url:
            yield url

    @pytest.fixture
    def unreachable_sink(self, tmp_path: Path) -> Iterator[Sink]:
        sink = SqlSink(f"postgresql://nobody@/none?host={tmp_path}")
        yield sink
        sink.close()
