"""The gain from more processes and cores: `python -m benchmarks.scale [--records N] [--seconds S] …`.

Web processes accept, over 32 connections; worker processes drain stored deliveries of 100 records into the
SQL sink on the same PostgreSQL, which commits durably. Sender, servers and databases share this machine's
cores, so its rates stop growing with them. The CPU time of each part carries over to other machines; the last
table is computed from it. It holds under load: a delivery that comes alone shares its commit and its job with
no other.
"""

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gevent
from redis import Redis

from app.redis.queue import IDS_PER_JOB
from app.store.inbox import Inbox
from app.store.pending import PendingDeliveries
from app.truto.target_url import WEBHOOK_PATH
from app.web.enqueuer import NewDelivery
from benchmarks.environment import BenchmarkEnvironment, running_environment
from benchmarks.load import send_for
from benchmarks.payloads import RequestStream, make_delivery
from benchmarks.results import save_results
from benchmarks.round import CpuMeter, list_process_tree
from tests.support.processes import find_descendants
from tests.support.redis_keys import open_queue
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess

_PROCESSES = (1, 2, 4)
_CORES = (1, 2, 4, 8)
_CONNECTIONS = 32
_DRAINED_RECORDS = 100
# As many as a web process stores together under load.
_PUT_AT_ONCE = 64
_WARM_UP_S = 0.5
_WARM_UP_JOBS = 2
_FLUSH_INTERVAL_S = 0.2
_DRAIN_TIMEOUT_S = 600
# It runs commands on one thread, however many cores there are.
_SINGLE_THREADED = "Valkey"

_Pids = Callable[[], list[int]]
_delivery_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Measurement:
    """The work of a number of processes on deliveries of a number of records. cpu_s: by part."""

    processes: int
    records: int
    deliveries: int
    seconds: float
    cpu_s: Mapping[str, float]

    @property
    def deliveries_per_s(self) -> float:
        """Deliveries a second."""
        return self.deliveries / self.seconds

    def part_us(self, part: str) -> float:
        """Return a part's CPU time for one delivery, in µs."""
        return self.cpu_s[part] / self.deliveries * 1e6

    def as_row(self, step: str) -> dict[str, Any]:
        """Return a flat row, to be saved."""
        costs = {f"{part}_us": round(self.part_us(part), 1) for part in self.cpu_s}
        shape = {"step": step, "processes": self.processes, "records": self.records}
        rate = {"deliveries": self.deliveries, "deliveries_per_s": round(self.deliveries_per_s, 1)}
        return {**shape, **rate, **costs}


def _measure(options: argparse.Namespace) -> tuple[list[Measurement], list[Measurement]]:
    """Return the measurements of accepting and of draining.

    The process counts take turns, so that other load on the machine affects all of them.
    """
    accepting: list[Measurement] = []
    draining: list[Measurement] = []
    with running_environment() as environment, ExitStack() as stack:
        webs = {count: stack.enter_context(environment.web(count)) for count in options.processes}
        for _ in range(options.rounds):
            for count, web in webs.items():
                accepting.append(_accept(environment, web, count, options.records, options.seconds))
        stack.close()
        # Accepted deliveries would be drained along.
        environment.delete_deliveries()
        for _ in range(options.rounds):
            draining += [_drain(environment, count, options.seconds) for count in options.processes]
    return accepting, draining


def _accept(
    environment: BenchmarkEnvironment, web: WebProcess, processes: int, records: int, seconds: float
) -> Measurement:
    requests = RequestStream(WEBHOOK_PATH, records)
    with _emptied_queue(environment.redis):
        send_for(web.port, requests, connections=_CONNECTIONS, seconds=_WARM_UP_S)
        meter = CpuMeter(
            {
                "web": lambda: list_process_tree(web.pid),
                **_server_pids(environment),
                "sender": lambda: [os.getpid()],
            }
        )
        started = time.perf_counter()
        load = send_for(web.port, requests, connections=_CONNECTIONS, seconds=seconds)
        took_s = time.perf_counter() - started
        return Measurement(processes, records, len(load.times_s), took_s, meter.read_s())


@contextmanager
def _emptied_queue(redis: Redis) -> Iterator[None]:
    """Keep the queue short, as workers do: beyond its limit nothing is enqueued, which costs less."""

    def empty() -> None:
        while True:
            redis.flushall()
            gevent.sleep(_FLUSH_INTERVAL_S)

    emptying = gevent.spawn(empty)
    try:
        yield
    finally:
        emptying.kill()


def _drain(environment: BenchmarkEnvironment, processes: int, seconds: float) -> Measurement:
    with environment.running_workers(processes) as command:
        parts: dict[str, _Pids] = {
            "worker": lambda: find_descendants(command.pid),
            "supervisor": lambda: [command.pid],
            **_server_pids(environment),
        }

        def measure(deliveries: int) -> Measurement:
            stored = _store_deliveries(environment, deliveries)
            meter = CpuMeter(parts)
            took_s = _drain_deliveries(environment, stored)
            return Measurement(processes, _DRAINED_RECORDS, deliveries, took_s, meter.read_s())

        warm_up = measure(_WARM_UP_JOBS * processes * IDS_PER_JOB)
        # The same number of full jobs for each worker process.
        jobs = seconds * warm_up.deliveries_per_s / IDS_PER_JOB
        return measure(max(1, round(jobs / processes)) * processes * IDS_PER_JOB)


def _server_pids(environment: BenchmarkEnvironment) -> dict[str, _Pids]:
    return {
        "PostgreSQL": lambda: list_process_tree(environment.postgres.pid),
        "Valkey": lambda: list_process_tree(environment.valkey.pid),
    }


def _store_deliveries(environment: BenchmarkEnvironment, count: int) -> list[NewDelivery]:
    """Store deliveries of records that no sink has yet, without enqueueing them."""
    inbox, stored = Inbox(environment.database), list[NewDelivery]()
    for start in range(0, count, _PUT_AT_ONCE):
        numbers = range(start, min(count, start + _PUT_AT_ONCE))
        deliveries = [make_delivery(next(_delivery_numbers), _DRAINED_RECORDS) for _ in numbers]
        stored += [NewDelivery(receipt.delivery_id) for receipt in inbox.put(deliveries)]
    return stored


def _drain_deliveries(environment: BenchmarkEnvironment, stored: list[NewDelivery]) -> float:
    """Enqueue deliveries and wait until all are settled; return the seconds that it took."""
    pending = PendingDeliveries(environment.database)
    started = time.perf_counter()
    open_queue(environment.redis, environment.database).enqueue(stored)
    wait_until(
        lambda: pending.find_oldest_received_at() is None, timeout_s=_DRAIN_TIMEOUT_S, what="an empty inbox"
    )
    return time.perf_counter() - started


def _render_table(rounds: Sequence[Measurement], rate_name: str) -> Iterator[str]:
    parts = list(rounds[0].cpu_s)
    yield f"| processes | {rate_name} | spread | records/s | " + " | ".join(parts) + " | all |"
    yield "|--:|--:|--:|--:|" + "--:|" * (len(parts) + 1)
    for count in sorted({measured.processes for measured in rounds}):
        yield _render_row(count, [measured for measured in rounds if measured.processes == count], parts)


def _render_row(processes: int, rounds: Sequence[Measurement], parts: Sequence[str]) -> str:
    rates = [measured.deliveries_per_s for measured in rounds]
    rate, spread, records = median(rates), (max(rates) - min(rates)) / median(rates), rounds[0].records
    costs: Mapping[str, float] = {
        part: median(measured.part_us(part) for measured in rounds) for part in parts
    }
    cells = [f"{cost:,.0f} ({cost / records:.1f})" for cost in [*costs.values(), sum(costs.values())]]
    return f"| {processes} | {rate:,.0f} | ±{spread / 2:.0%} | {rate * records:,.0f} | {' | '.join(cells)} |"


def _record_us(rounds: Sequence[Measurement], part: str) -> float:
    """Return a part's CPU time for one record, in µs: the median at the most expensive process count.

    With more processes fewer deliveries share a commit and a job.
    """
    counts = {measured.processes for measured in rounds}
    return max(
        median(
            measured.part_us(part) / measured.records for measured in rounds if measured.processes == count
        )
        for count in counts
    )


def _render_capacity(accepting: Sequence[Measurement], draining: Sequence[Measurement]) -> Iterator[str]:
    """Yield a table of the load that a number of cores carry, and the part that limits it."""
    web = _record_us(accepting, "web")
    worker = _record_us(draining, "worker") + _record_us(draining, "supervisor")
    shared = {
        name: (_record_us(accepting, name), _record_us(draining, name))
        for name in ("PostgreSQL", _SINGLE_THREADED)
    }
    yield "| cores of | µs a record | " + " | ".join(f"{cores} carry" for cores in _CORES) + " |"
    yield "|---|--:|" + "--:|" * len(_CORES)
    yield _render_capacity_row("web", web, accepting[0].records)
    yield _render_capacity_row("worker", worker, draining[0].records)
    for name, (for_web, for_worker) in shared.items():
        limit = 1 if name == _SINGLE_THREADED else _CORES[-1]
        yield _render_capacity_row(f"{name}, for web alone", for_web, accepting[0].records, limit)
        yield _render_capacity_row(f"{name}, for worker alone", for_worker, draining[0].records, limit)
        yield _render_capacity_row(f"{name}, for both", for_web + for_worker, draining[0].records, limit)
    postgres, valkey = (sum(costs) for costs in shared.values())
    yield ""
    yield (
        f"Deliveries a second (records a second): of {accepting[0].records} records where web is alone, else "
        f"of {draining[0].records}. One core of PostgreSQL keeps up with {web / postgres:.1f} cores of web "
        f"and {worker / postgres:.1f} of worker, Valkey's one with {postgres / valkey:.1f} of PostgreSQL."
    )


def _render_capacity_row(name: str, record_us: float, records: int, max_cores: int = _CORES[-1]) -> str:
    cells = []
    for cores in _CORES:
        per_s = cores * 1e6 / record_us
        cells.append(f"{per_s / records:,.0f} ({per_s:,.0f})" if cores <= max_cores else "-")
    return f"| {name} | {record_us:.1f} | {' | '.join(cells)} |"


def main() -> None:
    """Print the measurements, then the capacity computed from them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument(
        "--records", type=int, default=50, help="records in an accepted body (default: %(default)s)"
    )
    parser.add_argument(
        "--processes", type=int, nargs="+", default=_PROCESSES, help="process counts (default: 1 2 4)"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of each process count (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="file to save the measurements to")
    options = parser.parse_args()
    accepting, draining = _measure(options)
    print(f"\nAccepting {options.records} records: µs of CPU a delivery (a record)\n")
    print(*_render_table(accepting, "accepted/s"), sep="\n")
    print(f"\nDraining {_DRAINED_RECORDS} records: µs of CPU a delivery (a record)\n")
    print(*_render_table(draining, "drained/s"), sep="\n")
    print("\nWhat cores carry\n")
    print(*_render_capacity(accepting, draining), sep="\n")
    rows = [measured.as_row("accept") for measured in accepting]
    rows += [measured.as_row("drain") for measured in draining]
    save_results(options.json, rows)


if __name__ == "__main__":
    main()
