"""A private MariaDB on a unix socket."""

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pymysql
import pytest

from tests.support.server import Server

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


class MariaDbServer(Server):
    """A MariaDB in a private folder; call `stop` at the end. Under root it runs as nobody.

    Its time zone is not UTC, so that no test depends on that. Without the program, the test is skipped, except
    in CI.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        server, install = shutil.which("mariadbd", path=_PATH), shutil.which("mariadb-install-db", path=_PATH)
        if server is None or install is None:
            if os.environ.get("CI"):
                pytest.fail("CI lacks mariadb-server")
            pytest.skip("mariadb-server is not installed: apt-get install mariadb-server")
        as_user = dict[str, Any]()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        self._socket = folder / "socket"
        self._pid_file = folder / "pid"
        data = f"--datadir={folder / 'data'}"
        command = [server, "--no-defaults", data, f"--socket={self._socket}", f"--pid-file={self._pid_file}"]
        command += [f"--tmpdir={folder}", "--skip-networking", "--default-time-zone=-06:00"]
        command += [
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--innodb-doublewrite=0",
            *options,
        ]
        super().__init__(folder, command, as_user)
        login = "--auth-root-authentication-method=normal"
        # The temporary folder of the tests may be closed to nobody.
        temporary = f"--tmpdir={folder}"
        self.run(install, "--no-defaults", data, temporary, login, "--skip-test-db", "--skip-name-resolve")
        self.start()

    def url(self, database: str, user: str = "root") -> str:
        return f"mariadb://{user}@/{database}?unix_socket={self._socket}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create an empty database; yield its URL."""
        name = f"test_{uuid4().hex[:12]}"
        # Not the character set of the sink: its tables choose their own.
        self.execute(f"CREATE DATABASE {name} CHARACTER SET latin1")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name}")

    def execute(self, *statements: str) -> None:
        """Execute statements as root."""
        with pymysql.connect(user="root", unix_socket=str(self._socket)) as connection:
            for statement in statements:
                connection.cursor().execute(statement)

    def answers(self) -> bool:
        if not self._pid_file.exists():
            return False
        try:
            self.execute("SELECT 1")
        except pymysql.MySQLError:
            return False
        return int(self._pid_file.read_text()) == self.pid
