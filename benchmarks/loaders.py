"""Records a second into each sink, beside dlt and target-postgres: `python -m benchmarks.loaders`.

One run on one machine, in turns, medians of several rounds; the order of a round is the reverse of the one
before. A round loads the same records three times: the pass "insert" into an empty table, "update" with the
same keys and newer versions, and "small" with newer versions of a tenth. Databases commit durably.

- The receiver: worker processes that lease stored deliveries, read their bodies, parse, route, write and
  settle them. The inbox is in PostgreSQL.
- dlt and Meltano's target-postgres read the same records from a file, each in one process.

A pass is timed from outside, from the start of the work to its commit. The start of processes, imports and
the installation of the loaders are not part of it. All share the cores: the ratios hold elsewhere, the
absolute numbers do not.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import psycopg

from app.database.engine import open_database
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery
from app.truto.events import read_envelope
from benchmarks.environment import migrate_database
from benchmarks.loader_inputs import PASSES, PassFiles, write_inputs
from benchmarks.other_loaders import OTHER_LOADERS, SCHEMA, OtherLoader, install
from benchmarks.payloads import TABLE
from benchmarks.results import save_results
from benchmarks.round import Round, RoundTimer
from benchmarks.sink_targets import (
    SinkServers,
    SinkTarget,
    has_mariadb,
    local_files,
    sql_target,
    sqlite_target,
)
from benchmarks.timed_passes import TimedProcess
from tests.support.postgres import PostgresServer

# Under load, a job has up to 32 ids; at the speed of these pages, a few.
_DELIVERIES_PER_JOB = 5
_FIRST = "receiver, 1 worker"
SINKS = ("postgresql", "mariadb", "sqlite", "jsonl", "parquet", "s3")
_SINK_TITLES = dict(
    zip(SINKS, ("PostgreSQL", "MariaDB", "SQLite", "JSON Lines", "Parquet", "S3, Parquet"), strict=True)
)


@dataclass(frozen=True, slots=True)
class Site:
    """The server and the files that all subjects share. folder: for logs and settings."""

    postgres: PostgresServer
    passes: Sequence[PassFiles]
    folder: Path

    def count_all_versions(self, last: PassFiles) -> list[int]:
        """Return the number of records of each version, after a pass."""
        return [files.records for files in self.passes[: last.version]]

    def count_newest(self, last: PassFiles) -> list[int]:
        """Return the number of rows of each version in a table, after a pass."""
        total = self.passes[0].records
        return [count for count in (total - last.records, last.records) if count]

    @property
    def log(self) -> Path:
        """The output of all processes."""
        return self.folder / "loaders.log"


Subject = Callable[[Site], list[Round]]


def load_with_receiver(
    site: Site, open_target: Callable[[], AbstractContextManager[SinkTarget]] | None, workers: int
) -> list[Round]:
    """Measure worker processes. open_target: None for the sink in the database of the inbox."""
    with ExitStack() as stack:
        url = stack.enter_context(site.postgres.database())
        migrate_database(url)
        opened = open_target() if open_target else nullcontext(sql_target(url))
        target = stack.enter_context(opened)
        settings = {
            "database_url": url,
            "routes": {"sinks": {"main": target.config}, "routes": [{"sinks": ["main"]}]},
            "passes": [_store_deliveries(url, files.bodies) for files in site.passes],
        }
        file = site.folder / "receiver.json"
        file.write_text(json.dumps(settings))
        command = [sys.executable, "-m", "benchmarks.receiver_load", str(file)]
        processes = [
            stack.enter_context(_started([*command, str(place), str(workers)], site.log, target.environment))
            for place in range(workers)
        ]
        pids = {} if target.server_pid is None else {"sink": target.server_pid}
        rounds = []
        for files in site.passes:
            rounds.append(_time_pass(site, url, files, processes, pids))
            versions = target.count_versions()
            expected = site.count_all_versions(files) if target.has_all_versions else site.count_newest(files)
            assert versions == expected, f"rows by version after pass {files.version}: {versions}"
        return rounds


def load_with_other(site: Site, loader: OtherLoader, environment: Path) -> list[Round]:
    """Measure another loader on an empty database."""
    with ExitStack() as stack:
        url = stack.enter_context(site.postgres.database())
        command = loader.build_command(environment, url, site.passes, site.folder)
        # All traffic stays on this machine.
        variables = {"DLT_DATA_DIR": str(site.folder / "dlt"), "RUNTIME__DLTHUB_TELEMETRY": "false"}
        process = stack.enter_context(_started(command, site.log, variables))
        rounds = []
        for files in site.passes:
            rounds.append(_time_pass(site, url, files, [process], {}))
            revision = "revision" if loader.shape == "columns" else "data->>'revision'"
            rows = _read_one(
                url, f"SELECT count(*) FROM {SCHEMA}.{TABLE} WHERE {revision} = '{files.version}'"
            )
            assert rows == files.records, f"{loader.name}: {rows} rows of version {files.version}"
        return rounds


@contextmanager
def _started(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[TimedProcess]:
    process = TimedProcess(command, log, environment)
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.close()


def _time_pass(
    site: Site, url: str, files: PassFiles, processes: Sequence[TimedProcess], pids: Mapping[str, int]
) -> Round:
    # Pages that earlier work left to be written must not be written now.
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    timer = RoundTimer(postgres=site.postgres.pid, **pids)
    for process in processes:
        process.start_pass()
    return timer.stop(files.records, client=sum([process.finish_pass() for process in processes]))


def _store_deliveries(url: str, bodies: Path) -> list[list[str]]:
    """Store the bodies in the inbox; return the jobs, as lists of ids."""
    database, now = open_database(url), datetime.now(UTC)
    lines = [line.rstrip(b"\n") for line in bodies.read_bytes().splitlines()]
    incoming = [
        IncomingDelivery(body, f"{bodies} {number}".encode(), now, read_envelope(body))
        for number, body in enumerate(lines)
    ]
    ids = [str(receipt.delivery_id) for receipt in Inbox(database).put(incoming)]
    database.close()
    return [ids[start : start + _DELIVERIES_PER_JOB] for start in range(0, len(ids), _DELIVERIES_PER_JOB)]


def _read_one(url: str, query: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row
    return int(row[0])


def _prepare_subjects(
    options: argparse.Namespace, servers: SinkServers, unavailable: dict[str, str]
) -> dict[str, Subject]:
    """Return the measurement of each subject by its name, PostgreSQL first."""
    subjects: dict[str, Subject] = {}
    if "postgresql" in options.sinks:
        subjects[_FIRST] = partial(load_with_receiver, open_target=None, workers=1)
        subjects["receiver, 2 workers"] = partial(load_with_receiver, open_target=None, workers=2)
        for loader in () if options.without_loaders else OTHER_LOADERS:
            environment = install(options.loaders, loader.requirements)
            if isinstance(environment, str):
                unavailable[loader.name] = environment
            else:
                subjects[loader.name] = partial(load_with_other, loader=loader, environment=environment)
    openers: dict[str, Callable[[], AbstractContextManager[SinkTarget]]] = {
        "mariadb": servers.mariadb,
        "sqlite": sqlite_target,
        "jsonl": partial(local_files, "jsonl"),
        "parquet": partial(local_files, "parquet"),
        "s3": servers.s3,
    }
    for name, opener in openers.items():
        if name == "mariadb" and name in options.sinks and not has_mariadb():
            unavailable[_SINK_TITLES[name]] = "mariadbd is not installed: apt-get install mariadb-server"
        elif name in options.sinks:
            subjects[_SINK_TITLES[name]] = partial(load_with_receiver, open_target=opener, workers=1)
    return subjects


def _measure(site: Site, subjects: Mapping[str, Subject], round_count: int) -> dict[str, list[list[Round]]]:
    """Return the rounds of each subject, with a measurement for each pass."""
    rounds: dict[str, list[list[Round]]] = {name: [] for name in subjects}
    names = list(subjects)
    for number in range(round_count):
        # Other load on the machine affects all of them, and nobody is always the first.
        for name in names[::-1] if number % 2 else names:
            rounds[name].append(subjects[name](site))
            print(name, [f"{one.records_per_s:,.0f}" for one in rounds[name][-1]], file=sys.stderr)
    return rounds


def _line(name: str, rounds: Sequence[Sequence[Round]], first: Sequence[Sequence[Round]] | None) -> str:
    rates = [_rate(rounds, place) for place in range(len(PASSES))]
    spread = max(_spread(rounds, place) for place in range(len(PASSES)))
    client = median(_cpu_us(passes, ["client"]) for passes in rounds)
    server = median(_cpu_us(passes, ["postgres", "sink"]) for passes in rounds)
    ratios = [_rate(first, place) / rate for place, rate in enumerate(rates)] if first else []
    cells = [f"{rate:,.0f}" for rate in rates] + [f"±{spread / 2:.0%}", f"{client:.0f}", f"{server:.0f}"]
    return f"| {name:<23} | {' | '.join(cells)} | {' '.join(f'{ratio:.1f}' for ratio in ratios)} |"


def _rate(rounds: Sequence[Sequence[Round]], place: int) -> float:
    return median(passes[place].records_per_s for passes in rounds)


def _spread(rounds: Sequence[Sequence[Round]], place: int) -> float:
    rates = [passes[place].records_per_s for passes in rounds]
    return (max(rates) - min(rates)) / median(rates)


def _cpu_us(passes: Sequence[Round], parts: Sequence[str]) -> float:
    """Return the CPU microseconds of the parts for one record, the mean of all passes."""
    used_s = sum(one.cpu_s.get(part, 0.0) for one in passes for part in parts)
    return used_s / sum(one.records for one in passes) * 1e6


def _rows(rounds: Mapping[str, Sequence[Sequence[Round]]]) -> list[dict[str, object]]:
    return [
        {
            "subject": name,
            "round": number,
            "pass": name_of_pass,
            "records": one.records,
            "seconds": one.seconds,
            "records_per_s": one.records_per_s,
            **{f"{part}_cpu_s": used_s for part, used_s in one.cpu_s.items()},
        }
        for name in rounds
        for number, passes in enumerate(rounds[name], 1)
        for name_of_pass, one in zip(PASSES, passes, strict=True)
    ]


def main() -> None:
    """Print a table, one row for each subject."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loaders", description=__doc__)
    parser.add_argument(
        "--records", type=int, default=50_000, help="records in a pass (default: %(default)s)"
    )
    parser.add_argument("--page", type=int, default=500, help="records in a delivery (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each subject (default: %(default)s)")
    parser.add_argument("--sinks", nargs="+", choices=SINKS, default=SINKS, help="sinks (default: all)")
    parser.add_argument(
        "--loaders",
        type=Path,
        default=Path(tempfile.gettempdir()) / "rapidbridge-loaders",
        help="folder that the other loaders are installed into (default: %(default)s)",
    )
    parser.add_argument("--without-loaders", action="store_true", help="measure the receiver only")
    parser.add_argument("--json", type=Path, help="file to save the measurements to")
    options = parser.parse_args()
    unavailable: dict[str, str] = {}
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))) for _ in range(2)]
        postgres = PostgresServer(folders[0], is_durable=True)
        stack.callback(postgres.stop)
        servers = stack.enter_context(SinkServers())
        subjects = _prepare_subjects(options, servers, unavailable)
        passes = write_inputs(folders[1], options.records, options.page)
        rounds = _measure(Site(postgres, passes, folders[1]), subjects, options.rounds)
    print(f"\n{options.records:,} records, {options.page} in a delivery; CPU in µs a record;")
    print(f'ratio: of "{_FIRST}" to the row\n')
    print(f"| {'':<23} | {' | '.join(f'{name}/s' for name in PASSES)} | spread | client | server | ratio |")
    print(f"|---|{'--:|' * (len(PASSES) + 4)}")
    for name in rounds:
        print(_line(name, rounds[name], rounds.get(_FIRST)))
    for name in unavailable:
        print(f"| {name:<23} | not available |{' |' * (len(PASSES) + 3)}")
    for name, reason in unavailable.items():
        print(f"\n{name} is not available: {reason}")
    save_results(options.json, _rows(rounds))


if __name__ == "__main__":
    main()
