"""The failovers of a soak: connections to the demoted server live on, and it refuses their writes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import ReadOnlySqlTransaction
from redis import Redis
from redis.exceptions import ReadOnlyError

from tests.support.failover import PostgresPair, ValkeyPair

pytestmark = pytest.mark.chaos

ROUNDS = 3


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="rb-") as path:
        yield Path(path)


@pytest.fixture
def postgres_pair(folder: Path) -> Iterator[PostgresPair]:
    pair = PostgresPair(folder)
    yield pair
    pair.stop()


@pytest.fixture
def valkey_pair(folder: Path) -> Iterator[ValkeyPair]:
    pair = ValkeyPair(folder)
    yield pair
    pair.stop()


def test_postgresql_keeps_every_commit_and_old_connections_become_read_only(
    postgres_pair: PostgresPair,
) -> None:
    with postgres_pair.database() as url:

        def connect() -> psycopg.Connection:
            return psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off")

        with connect() as connection:
            connection.execute("CREATE TABLE numbers (number int)")
        for number in range(ROUNDS):
            with connect() as connection:
                connection.execute("INSERT INTO numbers VALUES (%s)", [number])
            with postgres_pair.failed_over():
                old = connect()
            with old, connect() as new:
                new.execute("SELECT 1")
                with pytest.raises(ReadOnlySqlTransaction):
                    old.execute("INSERT INTO numbers VALUES (-1)")
                numbers = new.execute("SELECT number FROM numbers ORDER BY number").fetchall()
                assert numbers == [(committed,) for committed in range(number + 1)]


def test_valkey_keeps_every_write_and_old_connections_become_read_only(valkey_pair: ValkeyPair) -> None:
    with Redis.from_url(valkey_pair.url) as old:
        for number in range(ROUNDS):
            old.rpush("numbers", number)
            with valkey_pair.failed_over(), pytest.raises(ReadOnlyError):
                old.rpush("numbers", -1)
            with pytest.raises(ReadOnlyError):
                old.rpush("numbers", -1)
            # New connections.
            old.connection_pool.disconnect()
            assert old.lrange("numbers", 0, -1) == [b"%d" % written for written in range(number + 1)]
            old.set("is", "writable")


def test_a_valkey_that_was_promoted_and_killed_is_still_the_primary(valkey_pair: ValkeyPair) -> None:
    with valkey_pair.failed_over():
        pass

    valkey_pair.primary.kill()
    valkey_pair.primary.start()

    with Redis.from_url(valkey_pair.url) as redis:
        assert redis.set("is", "writable")
