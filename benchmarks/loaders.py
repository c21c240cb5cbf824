"""Loaders compared with the receiver: the bare upsert, dlt, target-postgres.

The bare upsert is the SQL sink's own statement with prepared batches, one commit each. dlt and Meltano's
target-postgres load a file, each installed once into a virtual environment of its own. Their time includes
the start of the process: give them enough records that it does not decide.

`python -m benchmarks.loaders URL RECORDS BATCH_SIZE PLACE CONNECTIONS` is one connection of the bare
upsert: it takes every CONNECTIONS-th batch, prints "ready", waits for a line, writes, and prints the CPU
seconds it used.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, make_url

from app.config.routes import Route
from app.database.engine import open_engine
from app.sinks.base import Batch
from app.sinks.sql.dialect import WriteTarget
from app.sinks.sql.postgresql import PostgreSQL
from app.sinks.sql.rows import make_rows
from app.sinks.sql.tables import SinkTables
from benchmarks.payloads import RESOURCE, TABLE, make_batches, write_jsonl, write_singer
from benchmarks.round import Round, RoundTimer
from tests.support.processes import ROOT

SCHEMA = "loaded"
_DLT_VERSION = "1.31.0"
_TARGET_VERSION = "0.8.1"
_DLT_LOAD = Path(__file__).with_name("dlt_load.py")
_ROUTE = Route(sinks=("main",))


def measure_bare_upsert(
    url: str, records: int, batch_size: int, connections: int, *, postgres_pid: int
) -> Round:
    """Upsert a number of records over several connections, each a process of its own."""
    with ExitStack() as stack:
        command = [sys.executable, "-m", "benchmarks.loaders", url, str(records), str(batch_size)]
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
        rows = make_rows(batch.records, _ROUTE.columns)
        PostgreSQL().upsert(cast(Connection, recorder), WriteTarget(TABLE, batch, _ROUTE.columns), rows)
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


@dataclass(frozen=True, slots=True)
class Loader:
    """One way to load a file. arguments: of dlt_load.py; none for target-postgres."""

    name: str
    environment: Path
    source: Path
    arguments: tuple[str, ...] = ()

    def load(self, url: str, records: int, *, postgres_pid: int) -> Round:
        """Load the file into an empty database."""
        folder = self.source.parent
        command = self._build_command(url, folder)
        environment = os.environ | {
            "DLT_DATA_DIR": str(folder / "dlt"),
            # All traffic stays on this machine.
            "RUNTIME__DLTHUB_TELEMETRY": "false",
        }
        with self.source.open("rb") as source, (folder / "loaders.log").open("ab") as log:
            timer, cpu_before_s = RoundTimer(postgres=postgres_pid), _read_children_cpu_s()
            exit_code = subprocess.run(
                command, check=False, cwd=folder, env=environment, stdin=source, stdout=log, stderr=log
            ).returncode
            measured = timer.stop(records, client=_read_children_cpu_s() - cpu_before_s)
        assert exit_code == 0, f"{self.name} failed:\n{(folder / 'loaders.log').read_text()[-3000:]}"
        return measured

    def _build_command(self, url: str, folder: Path) -> list[str]:
        parsed = make_url(url)
        programs, socket = self.environment / "bin", parsed.query["host"]
        if self.arguments:
            # dlt requires a password, and a host even if libpq is given the socket's folder.
            address = f"postgresql://postgres:none@{str(socket).replace('/', '%2F')}/{parsed.database}"
            pipeline = [address, str(self.source), SCHEMA, TABLE, *self.arguments]
            # -P: Python must not take a module beside the script for one of dlt's.
            return [str(programs / "python"), "-P", str(_DLT_LOAD), *pipeline]
        settings = {
            "sqlalchemy_url": f"postgresql+psycopg://postgres@/{parsed.database}?host={socket}",
            "default_target_schema": SCHEMA,
            "use_copy": True,
        }
        (folder / "target.json").write_text(json.dumps(settings))
        return [str(programs / "target-postgres"), "--config", str(folder / "target.json")]


def prepare_loaders(environments: Path, folder: Path, records: int) -> Iterator[Loader]:
    """Install the loaders and write the files they load. environments: kept for the next run."""
    dlt = _install(environments, "dlt", f"dlt[postgres]=={_DLT_VERSION}")
    target = _install(environments, "target-postgres", f"meltanolabs-target-postgres=={_TARGET_VERSION}")
    jsonl, singer = folder / "records.jsonl", folder / "records.singer"
    write_jsonl(jsonl, records)
    write_singer(singer, records)
    # dlt's default: a table for each list inside of records.
    yield Loader(f"dlt {_DLT_VERSION}, merge", dlt, jsonl, ("merge", "insert_values", "nested"))
    # dlt's fastest settings: lists and objects kept as JSON, as the SQL sink keeps them, and COPY.
    yield Loader(f"dlt {_DLT_VERSION}, merge, flat, COPY", dlt, jsonl, ("merge", "csv", "flat"))
    yield Loader(f"dlt {_DLT_VERSION}, append, flat, COPY", dlt, jsonl, ("append", "csv", "flat"))
    yield Loader(f"target-postgres {_TARGET_VERSION}, COPY", target, singer)


def _install(environments: Path, name: str, requirement: str) -> Path:
    environment = environments / f"{name}-{requirement.rpartition('==')[2]}"
    marker = environment / "installed"
    if not marker.exists():
        print(f"installing {requirement}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        subprocess.run([str(environment / "bin" / "pip"), "install", "--quiet", requirement], check=True)
        marker.touch()
    return environment


def _read_children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    _run_upsert_connection(sys.argv[1], *map(int, sys.argv[2:]))
