"""Records a second that reach PostgreSQL: `python -m benchmarks.end_to_end [--records N] …`.

Compares within one run on one machine, in turns, medians of several rounds, each on an empty database of
one PostgreSQL that commits durably:

- the receiver, from the first POST to the last delivery settled; and its workers alone, which drain
  deliveries stored before;
- the SQL sink's own statement without anything around it, over one connection and over two: the base of the
  comparison.

Sender, receiver and databases share the cores: the ratios hold elsewhere, the absolute numbers do
not.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import psycopg
from redis import Redis

from app.database.engine import open_database
from app.store.inbox import Inbox
from app.store.pending import PendingDeliveries
from benchmarks.bare_upsert import measure_bare_upsert
from benchmarks.environment import migrate_database
from benchmarks.load import send_all
from benchmarks.payloads import TABLE, make_requests
from benchmarks.results import save_results
from benchmarks.round import Round, RoundTimer
from tests.chaos.site import Program
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess, read_procfile_command

_BARE = "bare upsert, 1 connection"
_PARTS = ("client", "web", "workers", "valkey", "postgres")
_CONNECTIONS = 8
_POLL_INTERVAL_S = 0.05
_SETTLE_TIMEOUT_S = 1800.0

Subjects = Mapping[str, Callable[[str], Round]]


@dataclass(frozen=True, slots=True)
class Receiver:
    """The receiver as it is installed, started anew on an empty database for each round.

    web, workers: number of processes. postgres_pid: the server's. folder: for logs.
    """

    folder: Path
    valkey: ValkeyServer
    postgres_pid: int
    web: int
    workers: int

    def receive(self, url: str, requests: Sequence[bytes], records: int) -> Round:
        """Measure from the first POST until the last delivery is settled; all processes are up before."""
        with ExitStack() as stack:
            self._prepare(url)
            web = stack.enter_context(self._running_web(url))
            workers = stack.enter_context(self._running_workers(url))
            self._wait_for_workers(self.workers)
            pids = {"web": web.pid, "workers": workers.pid, "valkey": self.valkey.pid}
            timer, sender_started_s = RoundTimer(postgres=self.postgres_pid, **pids), time.process_time()
            send_all(web.port, requests, connections=_CONNECTIONS)
            sender_cpu_s = time.process_time() - sender_started_s
            _wait_until_settled(url)
            measured = timer.stop(records, client=sender_cpu_s)
        _check_states(url, len(requests))
        return measured

    def drain(self, url: str, requests: Sequence[bytes], records: int) -> Round:
        """Measure from the first worker's start until all deliveries stored before are settled."""
        with ExitStack() as stack:
            self._prepare(url)
            with self._running_web(url) as web:
                send_all(web.port, requests, connections=_CONNECTIONS)
            workers = stack.enter_context(self._running_workers(url))
            self._wait_for_workers(1)
            timer = RoundTimer(postgres=self.postgres_pid, workers=workers.pid, valkey=self.valkey.pid)
            _wait_until_settled(url)
            measured = timer.stop(records)
        _check_states(url, len(requests))
        return measured

    def _prepare(self, url: str) -> None:
        with Redis.from_url(self.valkey.url) as redis:
            redis.flushall()
        migrate_database(url)

    def _running_web(self, url: str) -> WebProcess:
        return WebProcess(
            self.folder, database_url=url, redis_url=self.valkey.url, WEB_CONCURRENCY=str(self.web)
        )

    @contextmanager
    def _running_workers(self, url: str) -> Iterator[Program]:
        settings = {
            "DATABASE_URL": url,
            "REDIS_URL": self.valkey.url,
            "WORKER_CONCURRENCY": str(self.workers),
        }
        program = Program(read_procfile_command("worker"), ROOT, settings, self.folder / "workers.log")
        program.start()
        try:
            yield program
        finally:
            program.terminate()

    def _wait_for_workers(self, count: int) -> None:
        with Redis.from_url(self.valkey.url) as redis:
            log = self.folder / "workers.log"
            wait_until(
                lambda: redis.scard("rq:workers") >= count,
                timeout_s=60,
                what=lambda: f"the workers\n{log.read_text()}",
            )


def _wait_until_settled(url: str) -> None:
    database = open_database(url)
    pending = PendingDeliveries(database)
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S
    while pending.find_oldest_received_at() is not None:
        assert time.monotonic() < deadline, f"not settled within {_SETTLE_TIMEOUT_S} s"
        time.sleep(_POLL_INTERVAL_S)
    database.close()


def _check_states(url: str, deliveries: int) -> None:
    database = open_database(url)
    counts = Inbox(database).count_by_state()
    database.close()
    assert counts == {"settled": deliveries, "duplicate": 0}, counts


@contextmanager
def _prepared_subjects(options: argparse.Namespace) -> Iterator[tuple[Subjects, PostgresServer]]:
    """Yield the measurement of each subject on the database of a URL, and the server of the databases."""
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))) for _ in range(3)]
        postgres = PostgresServer(folders[0], is_durable=True)
        stack.callback(postgres.stop)
        valkey = ValkeyServer(folders[1], "--appendonly", "yes")
        stack.callback(valkey.stop)
        records, batch_size = options.records, options.batch
        receiver = Receiver(folders[2], valkey, postgres.pid, options.web, options.workers)
        requests = make_requests(records, batch_size)
        bare = partial(measure_bare_upsert, records=records, batch_size=batch_size, postgres_pid=postgres.pid)
        subjects: dict[str, Callable[[str], Round]] = {
            "receiver": partial(receiver.receive, requests=requests, records=records),
            "its workers": partial(receiver.drain, requests=requests, records=records),
            _BARE: partial(bare, connections=1),
            "bare upsert, 2 connections": partial(bare, connections=2),
        }
        yield subjects, postgres


def _measure(subjects: Subjects, postgres: PostgresServer, round_count: int) -> dict[str, list[Round]]:
    rounds: dict[str, list[Round]] = {name: [] for name in subjects}
    for _ in range(round_count):
        # In turns, so that other load on the machine affects all of them.
        for name, measure in subjects.items():
            with postgres.database() as url:
                measured = measure(url)
                rows = _count_rows(url)
                assert rows == measured.records, f"{name}: {rows} rows for {measured.records} records"
            rounds[name].append(measured)
    return rounds


def _count_rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {TABLE}".encode()).fetchone()
    assert row
    return int(row[0])


def _line(name: str, rounds: Sequence[Round], bare_per_s: float) -> str:
    rates = [measured.records_per_s for measured in rounds]
    rate, spread = median(rates), (max(rates) - min(rates)) / median(rates)
    cpu = [_cpu_ms(rounds, part) for part in _PARTS]
    return f"| {name} | {rate:,.0f} | ±{spread / 2:.0%} | {rate / bare_per_s:.0%} | {' | '.join(cpu)} |"


def _cpu_ms(rounds: Sequence[Round], part: str) -> str:
    """Return a part's CPU milliseconds for 1,000 records, "" for a part that was not running."""
    used = [measured.cpu_s[part] / measured.records * 1e6 for measured in rounds if part in measured.cpu_s]
    return f"{median(used):.0f}" if used else ""


def _rows(rounds: Mapping[str, Sequence[Round]], batch_size: int) -> list[dict[str, object]]:
    return [
        {
            "contender": name,
            "round": number,
            "records": measured.records,
            "batch": batch_size,
            "seconds": measured.seconds,
            "records_per_s": measured.records_per_s,
            **{f"{part}_cpu_s": used_s for part, used_s in measured.cpu_s.items()},
        }
        for name in rounds
        for number, measured in enumerate(rounds[name], 1)
    ]


def main() -> None:
    """Print a table, one row for each subject."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end", description=__doc__)
    parser.add_argument(
        "--records", type=int, default=50_000, help="records in a round (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each subject (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=100, help="records in a delivery (default: %(default)s)")
    # A second one commits and enqueues in smaller groups: more CPU, which two cores lack.
    parser.add_argument("--web", type=int, default=1, help="web processes (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to save the measurements to")
    options = parser.parse_args()
    with _prepared_subjects(options) as (subjects, postgres):
        rounds = _measure(subjects, postgres, options.rounds)
    bare_per_s = median(measured.records_per_s for measured in rounds[_BARE])
    print(f"\n{options.records} records, {options.batch} in a delivery; CPU in ms for 1,000 records\n")
    print(f"| | records/s | spread | of bare | {' | '.join(f'CPU {part}' for part in _PARTS)} |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in rounds:
        print(_line(name, rounds[name], bare_per_s), flush=True)
    save_results(options.json, _rows(rounds, options.batch))


if __name__ == "__main__":
    main()
