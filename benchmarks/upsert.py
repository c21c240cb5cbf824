"""The SQL sink's statement alone: batches prepared beforehand, one commit each, nothing around it.

`python -m benchmarks.upsert URL RECORDS BATCH PLACE CONNECTIONS` is one connection: it takes every
CONNECTIONS-th batch, says "ready", waits for a line, writes, and tells the CPU seconds it used.
"""

import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any, cast

from sqlalchemy import Connection

from app.config.routes import Route
from app.database.engine import open_engine
from app.sinks.base import Batch
from app.sinks.sql.dialect import WriteTarget
from app.sinks.sql.postgresql import PostgreSQL
from app.sinks.sql.rows import make_rows
from app.sinks.sql.tables import SinkTables
from benchmarks.payloads import RESOURCE, TABLE, make_batches
from benchmarks.round import Round, RoundTimer
from tests.support.processes import ROOT

_ROUTE = Route(sinks=("main",))


class _Recorder:
    """Stands where the sink has its connection, and keeps what is executed."""

    def __init__(self) -> None:
        self.executed: list[tuple[str, dict[str, Any]]] = []

    def exec_driver_sql(self, statement: str, parameters: dict[str, Any]) -> None:
        self.executed.append((statement, parameters))


def _statements(batches: list[Batch]) -> list[tuple[str, dict[str, Any]]]:
    recorder = _Recorder()
    for batch in batches:
        rows, _ = make_rows(batch, _ROUTE)
        PostgreSQL().upsert(cast(Connection, recorder), WriteTarget(TABLE, batch, _ROUTE.columns), rows)
    return recorder.executed


def measure_upserts(url: str, records: int, size: int, connections: int, *, postgres: int) -> Round:
    """Write so many records over so many connections, each a process. postgres: the server's process id."""
    with ExitStack() as stack:
        command = [sys.executable, "-m", "benchmarks.upsert", url, str(records), str(size)]
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, str(place), str(connections)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for place in range(connections)
        ]
        for writer in writers:
            assert _read(writer) == "ready", "a writer failed; what it said stands above"
        watch = RoundTimer(postgres=postgres)
        for writer in writers:
            assert writer.stdin
            writer.stdin.write("go\n")
            writer.stdin.flush()
        return watch.stop(records, client=sum(float(_read(writer)) for writer in writers))


def _read(writer: subprocess.Popen[str]) -> str:
    assert writer.stdout
    return writer.stdout.readline().strip()


def _write(url: str, records: int, size: int, place: int, connections: int) -> None:
    engine = open_engine(url)
    statements = _statements(list(make_batches(records, size))[place::connections])
    SinkTables(engine, PostgreSQL()).ensure_table(TABLE, RESOURCE, {})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        print("ready", flush=True)
        if not sys.stdin.readline():
            return
        began = time.process_time()
        for statement, parameters in statements:
            connection.exec_driver_sql(statement, parameters)
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    _write(sys.argv[1], *map(int, sys.argv[2:]))
