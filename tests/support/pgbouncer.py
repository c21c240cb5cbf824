"""A private PgBouncer on a unix socket, in front of a private PostgreSQL."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.postgres import PostgresServer
from tests.support.server import Server

BINARY = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_PORT = 6432


class PgBouncer(Server):
    """A stock PgBouncer that gives every transaction another server connection; call `stop` at the end.

    Under root it runs as nobody. server_connections: per database.
    """

    def __init__(self, folder: Path, postgres: PostgresServer, *, server_connections: int = 3) -> None:
        assert BINARY, "no pgbouncer on this machine"
        as_user = dict[str, Any]()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={postgres.folder} user=postgres\n"
            f"[pgbouncer]\nlisten_addr =\nlisten_port = {_PORT}\nunix_socket_dir = {folder}\n"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {server_connections}\n"
            # The next transaction gets the connection that has been idle for the longest time.
            "server_round_robin = 1\n"
        )
        super().__init__(folder, [BINARY, str(settings)], as_user)
        self.start()

    def url(self, direct_url: str) -> str:
        """Return the URL of a database through this pooler. direct_url: of PostgresServer."""
        database = direct_url.partition("@/")[2].partition("?")[0]
        return f"postgresql://postgres@/{database}?host={self._folder}&port={_PORT}"

    def answers(self) -> bool:
        try:
            psycopg.connect(f"postgresql://postgres@/postgres?host={self._folder}&port={_PORT}").close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running_pgbouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    """Start a PgBouncer; skip the test where there is none, but fail in CI."""
    if BINARY is None:
        message = "no pgbouncer on this machine; on Debian: apt-get install pgbouncer"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PgBouncer(Path(folder), postgres)
        try:
            yield server
        finally:
            server.stop()
