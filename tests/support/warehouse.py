"""Warehouse sinks in DuckDB files, and their rows as other readers see them."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb

from app.config.settings import build_child_environment
from app.config.sinks import WarehouseSinkConfig
from app.sinks.warehouse.dlt_client import VARIABLES, DltClient
from app.sinks.warehouse.sink import WarehouseSink


def configure_duckdb(file: Path, **keys: Any) -> WarehouseSinkConfig:
    """Return a sink's table in a routes file. keys: further ones."""
    table = {"type": "warehouse", "destination": "duckdb", "credentials": str(file)}
    return WarehouseSinkConfig.model_validate(table | keys)


def open_duckdb(file: Path, **keys: Any) -> WarehouseSink:
    return WarehouseSink(configure_duckdb(file, **keys))


def query(file: Path, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query; none if the file or the table is missing."""
    if not file.exists():
        return []
    with duckdb.connect(str(file), read_only=True) as connection:
        try:
            return connection.execute(statement).fetchall()
        except duckdb.CatalogException:
            return []


class DltForks:
    """A process that forks the processes of dlt; see `dlt_forking`."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.support.dlt_forking"],
                env=build_child_environment(VARIABLES),
                stdin=theirs.fileno(),
            )

    def close(self) -> None:
        self._requests.close()
        self._process.wait(10)

    def open_sink(self, config: WarehouseSinkConfig) -> WarehouseSink:
        """Open a sink whose requests run in forked processes."""
        return WarehouseSink(config, _ForkingDltClient(config, self))

    def run(self, request: str, folder: Path, timeout_s: float) -> None:
        """Run a request in a process that ends with it, or at the timeout."""
        stdin, theirs = socket.socketpair()
        with stdin:
            with theirs:
                socket.send_fds(self._requests, [str(folder).encode()], [theirs.fileno()])
            stdin.settimeout(timeout_s)
            stdin.sendall(f"{request}\n".encode())
            assert not stdin.recv(1), "the process answers with a file"


class _ForkingDltClient(DltClient):
    def __init__(self, config: WarehouseSinkConfig, forks: DltForks) -> None:
        super().__init__(config)
        self._forks = forks

    def _run_process(self, request: str, folder: Path, timeout_s: float) -> None:
        self._forks.run(request, folder, timeout_s)
