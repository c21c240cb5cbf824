"""Servers and stores for all suites: real ones, started from wheels, gone afterwards."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.database.engine import Database, open_database
from app.store.migrate import migrate
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    # Not tmp_path: the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = ValkeyServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture(scope="session")
def redis_url(valkey: ValkeyServer) -> str:
    return valkey.url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """The Valkey that all tests share, empty."""
    with Redis.from_url(redis_url) as client:
        client.flushall()
        yield client
        client.flushall()


@pytest.fixture
def harmed_valkey() -> Iterator[ValkeyServer]:
    """A Valkey that may be harmed."""
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = ValkeyServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def harmed_redis(harmed_valkey: ValkeyServer) -> Iterator[Redis]:
    """A client of the Valkey that may be harmed."""
    with Redis.from_url(harmed_valkey.url) as client:
        yield client


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PostgresServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture(scope="module")
def harmed_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that may be harmed."""
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PostgresServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty PostgreSQL database."""
    with postgres.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        with postgres.database() as url:
            yield url


@pytest.fixture
def store(store_url: str) -> Iterator[Database]:
    """An empty store in a database of each kind."""
    engine = open_database(store_url)
    migrate(engine)
    yield engine
    engine.close()
