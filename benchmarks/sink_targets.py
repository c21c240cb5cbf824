"""Empty sinks of the receiver for one round, on servers that commit durably."""

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import text

from app.database.engine import open_engine
from benchmarks.payloads import TABLE
from tests.support.files import list_paths, read_rows
from tests.support.mariadb import MariaDbServer
from tests.support.s3_server import S3Server

_BUCKET = "benchmark"
_PATH_OF_SERVERS = "/usr/sbin:/usr/local/sbin:/usr/bin"


@dataclass(frozen=True, slots=True)
class SinkTarget:
    """An empty sink. config: its table in a routes file. count_versions: counts the rows of each version.

    has_all_versions: whether older versions stay. environment: variables of the process that writes.
    server_pid: the sink's own server, None without one.
    """

    config: dict[str, Any]
    count_versions: Callable[[], list[int]]
    has_all_versions: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    server_pid: int | None = None


def sql_target(url: str, server_pid: int | None = None) -> SinkTarget:
    """Return the sink in a database."""
    return SinkTarget({"type": "sql", "url": url}, lambda: _read_table(url), server_pid=server_pid)


def _read_table(url: str) -> list[int]:
    engine = open_engine(url)
    with engine.connect() as connection:
        query = text(f"SELECT count(*) FROM {TABLE} GROUP BY _version ORDER BY _version")
        counts = [int(count) for (count,) in connection.execute(query)]
    engine.dispose()
    return counts


@contextmanager
def sqlite_target() -> Iterator[SinkTarget]:
    """Make an SQLite file."""
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        yield sql_target(f"sqlite:///{folder}/sink.db")


@contextmanager
def local_files(file_format: str) -> Iterator[SinkTarget]:
    """Make a folder for files of a format."""
    with tempfile.TemporaryDirectory(prefix="rb-") as name:
        folder = Path(name)

        def read() -> list[int]:
            return _count_versions([(path.name, path.read_bytes()) for path in list_paths(folder)])

        yield SinkTarget(
            {"type": "files", "url": f"file://{folder}", "format": file_format}, read, has_all_versions=True
        )


class SinkServers:
    """The servers of sinks, started at their first use; a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._mariadb: MariaDbServer | None = None
        self._s3: S3Server | None = None

    def __enter__(self) -> "SinkServers":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def mariadb(self) -> Iterator[SinkTarget]:
        """Make a database of MariaDB."""
        if self._mariadb is None:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-")))
            # The servers of tests are not durable.
            durable = ("flush-log-at-trx-commit=1", "flush-method=fsync", "doublewrite=1")
            self._mariadb = MariaDbServer(folder, *[f"--innodb-{option}" for option in durable])
            self._stack.callback(self._mariadb.stop)
        with self._mariadb.database() as url:
            yield sql_target(url, self._mariadb.pid)

    @contextmanager
    def s3(self) -> Iterator[SinkTarget]:
        """Make an empty bucket for Parquet files."""
        if self._s3 is None:
            # A line for each request.
            logging.getLogger("werkzeug").setLevel(logging.WARNING)
            self._s3 = S3Server()
            self._stack.callback(self._s3.stop)
        client = self._s3.client()
        client.create_bucket(Bucket=_BUCKET)
        pages = client.get_paginator("list_objects_v2")

        def list_names() -> list[str]:
            return [
                entry["Key"] for page in pages.paginate(Bucket=_BUCKET) for entry in page.get("Contents", ())
            ]

        def read() -> list[int]:
            return _count_versions(
                [(n, client.get_object(Bucket=_BUCKET, Key=n)["Body"].read()) for n in list_names()]
            )

        try:
            yield SinkTarget(
                {"type": "files", "url": f"s3://{_BUCKET}/truto", "format": "parquet"},
                read,
                has_all_versions=True,
                environment=self._s3.environment,
            )
        finally:
            for name in list_names():
                client.delete_object(Bucket=_BUCKET, Key=name)
            client.delete_bucket(Bucket=_BUCKET)


def has_mariadb() -> bool:
    """Whether MariaDB's server is installed."""
    return shutil.which("mariadbd", path=_PATH_OF_SERVERS) is not None


def _count_versions(files: list[tuple[str, bytes]]) -> list[int]:
    counts = Counter(row["_version"] for name, content in files for row in read_rows(name, content))
    return [counts[version] for version in sorted(counts)]
