"""Servers and databases of all suites: real ones, started from wheels."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from redis import Redis
from sqlalchemy import make_url

from app.database.engine import Database, open_database
from app.store.migrate import migrate
from tests.support.connection_origins import name_origins
from tests.support.mariadb import MariaDbServer
from tests.support.postgres import PostgresServer, installation_copies
from tests.support.valkey import ValkeyServer

pytest.register_assert_rewrite("app.sink_contract.suite")
# A busy machine must not fail a property.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
name_origins()


@pytest.fixture(scope="session", autouse=True)
def remove_installation_copies() -> Iterator[None]:
    """Ends after all servers, because it begins before them."""
    with installation_copies:
        yield


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
    """A client of the Valkey that all tests share, empty."""
    with Redis.from_url(redis_url) as client:
        client.flushall()
        yield client
        client.flushall()


@pytest.fixture
def private_valkey() -> Iterator[ValkeyServer]:
    """A Valkey of the test's own, which it may kill, stall or fill."""
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = ValkeyServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def private_redis(private_valkey: ValkeyServer) -> Iterator[Redis]:
    """A client of the test's own Valkey."""
    with Redis.from_url(private_valkey.url) as client:
        yield client


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PostgresServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture(scope="module")
def private_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of the module's own, which its tests may kill, stall or fill."""
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PostgresServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """Yields the URL of an empty PostgreSQL database."""
    with postgres.database() as url:
        yield url


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDbServer]:
    # In memory: a test creates tables, and each is several files.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="rb-", dir=memory) as folder:
        server = MariaDbServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def sink_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yields the URL of an empty database of a SQL sink, once for each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/sink.db"
    else:
        server = request.getfixturevalue("postgres" if request.param == "postgresql" else "mariadb")
        with server.database() as url:
            yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yields the URL of an empty database, once for each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
    else:
        yield request.getfixturevalue("postgres_url")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the tables of the store, which tests copy."""
    file = tmp_path_factory.mktemp("migrated") / "store.db"
    _migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def migrated_database(postgres: PostgresServer) -> Iterator[str]:
    """Yields the name of a PostgreSQL database with the tables of the store, which tests copy."""
    with postgres.database() as url:
        _migrate(url)
        yield str(make_url(url).database)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yields the URL of a migrated, empty store, once for each kind."""
    if request.param == "sqlite":
        file: Path = request.getfixturevalue("migrated_file")
        shutil.copy(file, tmp_path / "store.db")
        yield f"sqlite:///{tmp_path}/store.db"
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        with postgres.database(request.getfixturevalue("migrated_database")) as url:
            yield url


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def tracked_urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Yields the URLs of a migrated store and of a SQL sink, once for each kind of sink."""
    if request.param == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        with postgres.database(request.getfixturevalue("migrated_database")) as url:
            yield url, url
        return
    url = f"sqlite:///{tmp_path}/store.db"
    shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "store.db")
    if request.param == "sqlite":
        yield url, url
    else:
        with request.getfixturevalue("mariadb").database() as sink_url:
            yield url, sink_url


@pytest.fixture
def store(store_url: str) -> Iterator[Database]:
    """A migrated, empty store, once for each kind."""
    database = open_database(store_url)
    yield database
    database.close()


def _migrate(url: str) -> None:
    database = open_database(url)
    migrate(database)
    database.close()
