"""A Redis that became a replica: its connections stay open, and must be replaced."""

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from app.database.engine import open_database
from app.errors import QueueUnavailable
from app.redis.connection import DemotedServer, connect_redis
from app.redis.queue import DeliveryQueue
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.web.enqueuer import NewDelivery
from tests.integration.test_failover_inbox import body
from tests.integration.test_workers import put
from tests.support.processes import Command
from tests.support.redis_keys import open_queue
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess, make_environment


class RedisPair:
    """Two servers behind one URL, which leads to the first one until the failover."""

    def __init__(self, folder: Path) -> None:
        self.servers = []
        for name in ("first", "second"):
            (folder / name).mkdir()
            self.servers.append(ValkeyServer(folder / name))
        self._link = folder / "socket"
        self._point_to(self.servers[0])
        self.url = f"unix://{self._link}"
        self.first, self.second = (Redis.from_url(server.url) for server in self.servers)

    def fail_over(self) -> None:
        """Make the second server the primary one; connections to the first one stay open."""
        self._point_to(self.servers[1])
        # As a primary that nobody reaches: the commands of a replica are refused just the same.
        self.first.replicaof("127.0.0.1", "1")

    def stop(self) -> None:
        self.first.close()
        self.second.close()
        for server in self.servers:
            server.stop()

    def _point_to(self, server: ValkeyServer) -> None:
        new = self._link.with_suffix(".new")
        new.symlink_to(server.url.removeprefix("unix://"))
        new.replace(self._link)


@pytest.fixture
def pair() -> Iterator[RedisPair]:
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        servers = RedisPair(Path(folder))
        yield servers
        servers.stop()


def hold_connections(client: Redis, number: int) -> None:
    """Leave this many idle connections in the pool."""
    connections = [client.connection_pool.get_connection() for _ in range(number)]
    for connection in connections:
        client.connection_pool.release(connection)


@pytest.mark.parametrize("way", ["command", "transaction", "pipeline", "script", "watch"])
def test_a_write_reaches_the_new_primary_at_once(pair: RedisPair, way: str) -> None:
    client = connect_redis(pair.url, tls_verify=True)
    hold_connections(client, 4)
    pair.fail_over()

    if way == "command":
        client.set("key", "value")
    elif way == "script":
        client.eval("return redis.call('set', 'key', 'value')", 0)
    else:
        with client.pipeline(transaction=way != "pipeline") as pipeline:
            pipeline.set("key", "value")
            pipeline.set("key", "value")
            pipeline.execute()

    assert pair.second.get("key") == b"value"
    # The other idle connections are new as well: they only read.
    readers = [client.connection_pool.get_connection() for _ in range(4)]
    for connection in readers:
        connection.send_command("GET", "key")  # type: ignore[no-untyped-call]  # redis-py's
        assert connection.read_response() == b"value"
        client.connection_pool.release(connection)
    client.close()


def test_a_blocked_read_ends_as_a_broken_connection(pair: RedisPair) -> None:
    client = connect_redis(f"{pair.url}?socket_timeout=30", tls_verify=True)
    errors: list[RedisError] = []

    def wait_for_job() -> None:
        try:
            client.blmove("queue", "started", 20)
        except RedisError as error:
            errors.append(error)

    thread = threading.Thread(target=wait_for_job)
    thread.start()
    wait_until(lambda: pair.first.info("clients")["blocked_clients"] == 1, what="a blocked client")
    pair.fail_over()
    wait_until(
        lambda: pair.second.info("clients")["blocked_clients"] == 1, what="a client at the new primary"
    )
    pair.second.lpush("queue", "job")
    thread.join(20)
    client.close()

    assert not errors
    assert pair.second.lrange("started", 0, -1) == [b"job"]


def test_without_a_new_primary_the_error_names_the_replica(private_valkey: ValkeyServer) -> None:
    client = connect_redis(private_valkey.url, tls_verify=True)
    client.replicaof("127.0.0.1", "1")

    with pytest.raises(DemotedServer):
        client.set("key", "value")
    with pytest.raises(QueueUnavailable, match="the server is a replica and accepts no writes"):
        DeliveryQueue(client, "test").set_marker()
    client.close()


def test_web_and_worker_follow_the_primary_without_a_restart(pair: RedisPair, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    database = open_database(url)
    migrate(database)
    inbox = Inbox(database)
    settings = make_environment(DATABASE_URL=url, REDIS_URL=pair.url)
    with (
        WebProcess(tmp_path, database_url=url, redis_url=pair.url) as web,
        Command(["app.cli", "worker", "-n", "1"], folder=tmp_path, environment=settings) as worker,
    ):
        put(inbox, 1)
        wait_until(lambda: inbox.count_by_state().get("settled") == 1, what=lambda: worker.log)
        web.post(body("2", integrated_account_id="a", resource="a/b", records=[{"id": "2"}]))
        wait_until(lambda: inbox.count_by_state().get("settled") == 2, what=lambda: worker.log)
        pair.fail_over()

        web.post(body("3", integrated_account_id="a", resource="a/b", records=[{"id": "3"}]))
        put(inbox, 4)
        wait_until(
            lambda: inbox.count_by_state().get("settled") == 4,
            timeout_s=60,
            what=lambda: worker.log + web.log,
        )
        # The queue in the new primary has a worker, and an idle one, which wrote last before the failover.
        wait_until(
            lambda: open_queue(pair.second, database).count_workers() == 1,
            timeout_s=60,
            what=lambda: worker.log,
        )
        open_queue(pair.second, database).enqueue([NewDelivery(put(inbox, 5))])
        wait_until(lambda: inbox.count_by_state().get("settled") == 5, what=lambda: worker.log)
        assert "Traceback" not in worker.log
    database.close()
