"""Pairs of servers with failover, behind a URL that is switched as a DNS name is.

The URL leads through a symbolic link to the socket of the primary. A switch leads new connections to the other
server. Open connections stay at the demoted server, as they do with managed databases: it answers queries, and
refuses every write.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql
from redis import Redis

from app.cli.local.ports import find_free_port
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

_FAILOVER_TIMEOUT_S = 30.0
_NAME = "current"


class PostgresPair:
    """A PostgreSQL and its streaming standby; call `stop` at the end."""

    def __init__(self, folder: Path, *, is_durable: bool = False) -> None:
        # The servers' user may be another one.
        folder.chmod(0o755)
        self._folder = folder
        self.primary = PostgresServer(_create_folder(folder / "a"), is_durable=is_durable)
        try:
            self.standby = PostgresServer(
                _create_folder(folder / "b"), is_durable=is_durable, standby_of=self.primary
            )
        except BaseException:
            self.primary.stop()
            raise
        _switch(folder, self.primary.folder)

    def stop(self) -> None:
        """Shut both down."""
        self.primary.stop()
        self.standby.stop()

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create an empty database; yield its URL, which leads to the primary."""
        name = f"test_{uuid4().hex[:12]}"
        with _connect(self.primary) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield f"postgresql://postgres@/{name}?host={self._folder / _NAME}"
        finally:
            # Perhaps not the server that was the primary then.
            with _connect(self.primary) as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextmanager
    def failed_over(self) -> Iterator[None]:
        """Kill the primary and promote the standby, without loss of a commit.

        Inside the block, the URL leads to the demoted server, which is a standby now.
        """
        old, new = self.primary, self.standby
        self._replicate_synchronously()
        old.kill()
        with _connect(new) as connection:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_promote()")
            old.rewind(new)
            # The old server waits for the last WAL of the rewind, which an idle server would not flush.
            connection.execute("SELECT pg_logical_emit_message(false, 'rewound', '', true)")
        old.start()
        self.primary, self.standby = new, old
        yield
        _switch(self._folder, new.folder)

    def _replicate_synchronously(self) -> None:
        """Return once every past commit is at the standby, and every later commit waits for it."""
        with _connect(self.primary) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")

            def has_standby(condition: str, *parameters: object) -> bool:
                statement = sql.SQL("SELECT FROM pg_stat_replication WHERE {}").format(sql.SQL(condition))
                return bool(connection.execute(statement, parameters).rowcount)

            wait_until(
                lambda: has_standby("sync_state = 'sync'"),
                timeout_s=_FAILOVER_TIMEOUT_S,
                what="a synchronous standby",
            )
            [position] = connection.execute("SELECT pg_current_wal_flush_lsn()").fetchall()[0]
            wait_until(
                lambda: has_standby("flush_lsn >= %s", position),
                timeout_s=_FAILOVER_TIMEOUT_S,
                what=f"the standby to reach {position}",
            )


class ValkeyPair:
    """A Valkey and its replica; call `stop` at the end. url: leads to the primary."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self.url = f"unix://{folder / _NAME}/valkey.sock"
        # Replicas connect by TCP only.
        self._ports = {name: find_free_port() for name in ("a", "b")}
        self.primary = self._start("a", options)
        try:
            self.replica = self._start("b", options)
        except BaseException:
            self.primary.stop()
            raise
        # Not as an option, which would demote this server again after a restart.
        with Redis.from_url(self.replica.url) as redis:
            redis.replicaof("127.0.0.1", str(self._ports["a"]))
        _switch(folder, folder / "a")

    def stop(self) -> None:
        """Shut both down."""
        self.primary.stop()
        self.replica.stop()

    @contextmanager
    def failed_over(self) -> Iterator[None]:
        """Promote the replica, without loss of a write.

        Inside the block, the URL leads to the demoted server, which is a replica now.
        """
        with Redis.from_url(self.primary.url) as primary, Redis.from_url(self.replica.url) as replica:

            def is_demoted() -> bool:
                state = primary.info("replication")
                # Repeated, because a replica that still loads its data aborts it.
                if (
                    state.get("master_failover_state") == "no-failover"
                    and state["connected_slaves"]
                    and replica.info("replication")["master_link_status"] == "up"
                ):
                    primary.execute_command("FAILOVER", "TIMEOUT", int(_FAILOVER_TIMEOUT_S * 1000))
                return bool(state["role"] == "slave")

            wait_until(is_demoted, timeout_s=_FAILOVER_TIMEOUT_S, what="the demotion of the primary")
        self.primary, self.replica = self.replica, self.primary
        yield
        _switch(self._folder, self.primary.folder)

    def _start(self, name: str, options: tuple[str, ...]) -> ValkeyServer:
        listening = ["--port", str(self._ports[name]), "--bind", "127.0.0.1"]
        return ValkeyServer(
            _create_folder(self._folder / name), *options, *listening, "--repl-diskless-sync-delay", "0"
        )


def _create_folder(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


def _switch(folder: Path, target: Path) -> None:
    """Lead new connections to the server in another folder."""
    link = folder / "next"
    link.symlink_to(target)
    link.replace(folder / _NAME)


def _connect(server: PostgresServer) -> psycopg.Connection:
    return psycopg.connect(server.url("postgres"), autocommit=True)
