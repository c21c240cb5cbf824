"""The private servers of the tests: real, and gone after their tests."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from redis import Redis
from sqlalchemy import inspect

from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.migrate import is_current
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT, find_descendants, is_alive
from tests.support.seeded_store import SeededStore
from tests.support.server import Server
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="rb-") as name:
        yield Path(name)


@pytest.fixture(params=[ValkeyServer, PostgresServer])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[Server]:
    start: Callable[[Path], Server] = request.param
    server = start(folder)
    yield server
    server.stop()


def test_valkey_is_a_child_process_of_the_tests(valkey: ValkeyServer, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        server_info = client.info("server")

    assert server_info["process_id"] == valkey.pid
    assert server_info["valkey_version"].startswith("9.")
    assert valkey.pid in find_descendants(os.getpid())


def test_postgresql_is_a_child_process_of_the_tests(postgres: PostgresServer, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.info.backend_pid in find_descendants(postgres.pid)
        assert connection.info.server_version // 10_000 == 18

    assert postgres.pid in find_descendants(os.getpid())


@pytest.mark.parametrize("turn", ["first", "second"])
def test_every_test_has_an_empty_database_of_its_own(empty_url: str, turn: str) -> None:
    # The second turn must not see what the first one created.
    engine = open_database(empty_url)
    with engine.engine.begin() as connection:
        assert inspect(connection).get_table_names() == []
        connection.exec_driver_sql("CREATE TABLE left_behind (id integer)")
    engine.close()


@pytest.mark.parametrize("turn", ["first", "second"])
def test_every_test_has_an_empty_store_of_its_own(store: Database, turn: str) -> None:
    assert is_current(store)
    assert not any(Inbox(store).count_by_state().values())
    SeededStore(store, "").put()


def test_a_database_is_gone_after_its_test(postgres: PostgresServer) -> None:
    with postgres.database() as url:
        # A test that forgets a connection must not keep the database.
        forgotten = psycopg.connect(url)
    forgotten.close()

    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


def test_no_other_user_reaches_a_server(valkey: ValkeyServer, postgres_url: str) -> None:
    # PostgreSQL trusts every process that reaches its socket.
    with psycopg.connect(postgres_url) as connection:
        folders = [Path(connection.info.host), Path(valkey.url.removeprefix("unix://")).parent]

    assert [folder.stat().st_mode & 0o077 for folder in folders] == [0, 0]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_nothing_is_left_of_a_server_that_is_ended(server: Server, end: str) -> None:
    family = [server.pid, *find_descendants(server.pid)]
    assert all(map(is_alive, family))

    getattr(server, end)()

    assert not any(map(is_alive, family))


def test_a_killed_valkey_starts_again_at_the_same_place(folder: Path) -> None:
    valkey = ValkeyServer(folder)
    with Redis.from_url(valkey.url) as client:
        client.set("queue", "full")
        first = valkey.pid

        valkey.kill()
        valkey.start()

        assert client.info("server")["process_id"] == valkey.pid != first
        assert client.dbsize() == 0
    valkey.stop()


def test_a_killed_postgresql_keeps_committed_data(folder: Path) -> None:
    postgres = PostgresServer(folder)
    with postgres.database() as url:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")

        postgres.kill()
        postgres.start()

        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]
    postgres.stop()


def test_servers_end_with_the_process_that_started_them(folder: Path) -> None:
    start = """
import sys, time
from pathlib import Path
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer

servers = []
for start, name in ((ValkeyServer, "v"), (PostgresServer, "p")):
    place = Path(sys.argv[1], name)
    place.mkdir()
    servers.append(start(place))
print("started", flush=True)
time.sleep(60)
"""
    # PostgreSQL's user must be able to pass through.
    folder.chmod(0o711)
    command = [sys.executable, "-c", start, str(folder)]
    # A killed process leaves its temporary files.
    variables = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "started\n"
        family = find_descendants(owner.pid)
        assert len(family) > 4

        os.kill(owner.pid, signal.SIGKILL)

        wait_until(lambda: not any(map(is_alive, family)), what=f"{family} to be gone")


@pytest.mark.parametrize(
    ("start", "blocking_name", "message"),
    [(ValkeyServer, "valkey.sock", "bind"), (PostgresServer, "data", "not empty")],
)
def test_a_server_that_cannot_start_shows_its_log_and_is_gone(
    folder: Path, start: Callable[[Path], Server], blocking_name: str, message: str
) -> None:
    (folder / blocking_name / "x").mkdir(parents=True)
    before = find_descendants(os.getpid())

    with pytest.raises(AssertionError, match=message):
        start(folder)

    assert set(find_descendants(os.getpid())) <= set(before)
