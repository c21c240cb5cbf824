"""The bare upsert: the SQL sink's own statement with prepared batches, one commit each.

`python -m benchmarks.bare_upsert URL RECORDS BATCH_SIZE PLACE CONNECTIONS` is one connection of it: it takes
every CONNECTIONS-th batch, prints "ready", waits for a line, writes, and prints the CPU seconds it used.
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


def measure_bare_upsert(
    url: str, records: int, batch_size: int, connections: int, *, postgres_pid: int
) -> Round:
    """Upsert a number of records over several connections, each a process of its own."""
    with ExitStack() as stack:
        command = [sys.executable, "-m", "benchmarks.bare_upsert", url, str(records), str(batch_size)]
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
            assert _read_line(writer) == "ready", "a writer failed; its message stands above"
        timer = RoundTimer(postgres=postgres_pid)
        for writer in writers:
            assert writer.stdin
            writer.stdin.write("go\n")
            writer.stdin.flush()
        return timer.stop(records, client=sum(float(_read_line(writer)) for writer in writers))


def _read_line(writer: subprocess.Popen[str]) -> str:
    assert writer.stdout
    return writer.stdout.readline().strip()


class _StatementRecorder:
    """Stands in for the sink's connection and keeps the statements."""

    def __init__(self) -> None:
        self.statements: list[tuple[str, dict[str, Any]]] = []

    def exec_driver_sql(self, statement: str, parameters: dict[str, Any]) -> None:
        self.statements.append((statement, parameters))


def _build_statements(batches: list[Batch]) -> list[tuple[str, dict[str, Any]]]:
    recorder = _StatementRecorder()
    for batch in batches:
        rows = make_rows(batch, _ROUTE.columns)
        PostgreSQL().upsert(cast(Connection, recorder), WriteTarget(TABLE, False, _ROUTE.columns), rows)
    return recorder.statements


def _run_upsert_connection(url: str, records: int, batch_size: int, place: int, connections: int) -> None:
    engine = open_engine(url)
    statements = _build_statements(list(make_batches(records, batch_size))[place::connections])
    SinkTables(engine, PostgreSQL()).ensure_table(TABLE, RESOURCE, {})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        print("ready", flush=True)
        if not sys.stdin.readline():
            return
        started_s = time.process_time()
        for statement, parameters in statements:
            connection.exec_driver_sql(statement, parameters)
        print(time.process_time() - started_s, flush=True)


if __name__ == "__main__":
    _run_upsert_connection(sys.argv[1], *map(int, sys.argv[2:]))
