"""The cost of a delivery as the inbox grows: `python -m benchmarks.growth [--sizes N …] …`.

Calls every operation of the service on its store, on a durable PostgreSQL, in inboxes of several sizes in
turns, so that other load on the machine affects all of them: after months of traffic ("history": all
settled, vacuumed); with a new backlog that the statistics do not include yet ("surprise"); after that was
drained, just before autovacuum runs ("unvacuumed"); and with all pending and due ("backlog"). Prints
medians. The server's CPU time and the pages it read show its work, which other load hardly changes. Then:
the memory of the processes with and without a backlog of a million.

Ten million deliveries take 8 GB of disk and, with all sizes, a quarter of an hour.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from redis import Redis

from benchmarks.results import save_results
from benchmarks.round import read_memory_kib
from benchmarks.seeded_inbox import (
    BODY,
    add_backlog,
    age_inbox,
    connect_without_limits,
    fill_inbox,
)
from benchmarks.store_operations import MAX_PER_SWEEP, Cost, MeasuredInbox, Sample, Situation
from tests.support.postgres import PostgresServer
from tests.support.processes import Command, find_descendants
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess, make_environment

_CALLS_PER_ROUND = 20
_SIZES = (1_000, 100_000, 1_000_000, 10_000_000)
_BACKLOG = 1_000_000
# A ratio within this counts as flat.
_TOLERANCE = 0.2
_MEMORY_LOAD_S = 20.0


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians of the samples of one operation; for its time, the quartiles too."""

    situation: Situation
    size: int
    operation: str
    samples: int
    low_us: float
    elapsed_us: float
    high_us: float
    cpu_us: float
    buffers: float


@contextmanager
def _running_postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PostgresServer(Path(folder), is_durable=True)
        try:
            with connect_without_limits(server.url("postgres")) as connection:
                # Checkpoints would slow the filling and disturb the measurements.
                connection.execute("ALTER SYSTEM SET max_wal_size = '8GB'")
                connection.execute("ALTER SYSTEM SET checkpoint_timeout = '1h'")
                connection.execute("SELECT pg_reload_conf()")
            yield server
        finally:
            server.stop()


def _measure(server: PostgresServer, sizes: Sequence[int], rounds: int, calls: int) -> list[Sample]:
    samples = []
    with _filled_databases(server, sizes, is_pending=False) as urls:
        samples += _measure_situation(urls, "history", rounds, calls)
        for size, url in urls.items():
            print(f"{size:,}: {add_backlog(url, size):,} more are pending", flush=True)
        samples += _measure_situation(urls, "surprise", rounds, calls)
        for size, url in urls.items():
            print(f"{size:,}: {age_inbox(url, size):,} more are settled", flush=True)
        samples += _measure_situation(urls, "unvacuumed", rounds, calls)
    with _filled_databases(server, sizes, is_pending=True) as urls:
        samples += _measure_situation(urls, "backlog", rounds, calls)
    return samples


@contextmanager
def _filled_databases(
    server: PostgresServer, sizes: Sequence[int], *, is_pending: bool
) -> Iterator[dict[int, str]]:
    """Yield the URL of a database of each size."""
    with ExitStack() as stack:
        urls = {}
        for size in sizes:
            started = time.perf_counter()
            urls[size] = stack.enter_context(server.database())
            fill_inbox(urls[size], size, is_pending=is_pending)
            print(f"{size:,}: filled in {time.perf_counter() - started:.0f} s", flush=True)
        yield urls


def _measure_situation(urls: dict[int, str], situation: Situation, rounds: int, calls: int) -> list[Sample]:
    with ExitStack() as stack:
        inboxes = [stack.enter_context(MeasuredInbox(url, size, situation)) for size, url in urls.items()]
        for number in range(rounds + 1):
            for _ in range(calls):
                for inbox in inboxes:
                    inbox.call_all()
            for inbox in inboxes:
                inbox.restore()
                if number == 0:
                    # The first round warms plans and caches up.
                    inbox.samples.clear()
        for inbox in inboxes:
            inbox.measure_count()
        return [sample for inbox in inboxes for sample in inbox.samples]


def _summarize_samples(samples: Sequence[Sample]) -> list[Summary]:
    """Return a summary of each operation, in the order of the measurements."""
    costs: dict[tuple[Situation, int, str], list[Cost]] = {}
    for sample in samples:
        costs.setdefault((sample.situation, sample.size, sample.operation), []).append(sample.cost)
    return [_summarize(*key, own_costs) for key, own_costs in costs.items()]


def _summarize(situation: Situation, size: int, operation: str, costs: Sequence[Cost]) -> Summary:
    times_us = [cost.elapsed_us for cost in costs]
    low_us, middle_us, high_us = quantiles(times_us, n=4) if len(times_us) > 1 else times_us * 3
    cpu_us, buffers = median(cost.cpu_us for cost in costs), median(cost.buffers for cost in costs)
    return Summary(situation, size, operation, len(costs), low_us, middle_us, high_us, cpu_us, buffers)


def _print_situation(summaries: Sequence[Summary], situation: Situation) -> None:
    """Print medians with half the distance of their quartiles, and the largest size against the smallest."""
    own = [summary for summary in summaries if summary.situation == situation]
    sizes = sorted({summary.size for summary in own})
    print(f"\n{situation}: µs for a delivery, or a call\n")
    print("| | " + " | ".join(f"{size:,}" for size in sizes) + " | ratio | CPU µs | ratio | pages | ratio |")
    print("|---|" + "--:|" * (len(sizes) + 5))
    for operation in dict.fromkeys(summary.operation for summary in own):
        by_size = sorted((s for s in own if s.operation == operation), key=lambda summary: summary.size)
        smallest, largest = by_size[0], by_size[-1]
        cells = [*map(_time_cell, by_size), _ratio_cell(smallest.elapsed_us, largest.elapsed_us)]
        cells += [f"{smallest.cpu_us:,.1f} → {largest.cpu_us:,.1f}"]
        cells += [_ratio_cell(smallest.cpu_us, largest.cpu_us)]
        cells += [f"{smallest.buffers:,.1f} → {largest.buffers:,.1f}"]
        cells += [_ratio_cell(smallest.buffers, largest.buffers)]
        print(f"| {operation} | " + " | ".join(cells) + " |")


def _time_cell(summary: Summary) -> str:
    spread = (summary.high_us - summary.low_us) / 2 / summary.elapsed_us
    return f"{summary.elapsed_us:,.0f}" + (f" ±{spread:.0%}" if summary.samples > 1 else "")


def _ratio_cell(smallest: float, largest: float) -> str:
    if not smallest:
        return "-"
    ratio = largest / smallest
    return f"{ratio:.2f}" if abs(ratio - 1) <= _TOLERANCE else f"**{ratio:.2f}**"


def _measure_memory(server: PostgresServer, backlog: int) -> Sequence[dict[str, Any]]:
    """Return and print each process's memory after some work, without a backlog and with this one."""
    rows = [row for size in (0, backlog) for row in _measure_memory_with(server, size)]
    print("\nMemory, MiB: at the end, and at most\n")
    print(f"| | backlog of 0 | | backlog of {backlog:,} | |")
    print("|---|--:|--:|--:|--:|")
    for name in dict.fromkeys(row["process"] for row in rows):
        own = [row for row in rows if row["process"] == name]
        cells = [f"{row['rss_mib']:.1f} | {row['peak_mib']:.1f}" for row in own]
        print(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def _measure_memory_with(server: PostgresServer, backlog: int) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        folder, socket = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))) for _ in range(2)
        )
        valkey = ValkeyServer(socket)
        stack.callback(valkey.stop)
        url = stack.enter_context(server.database())
        fill_inbox(url, backlog, is_pending=True)
        redis = stack.enter_context(Redis.from_url(valkey.url))
        settings = make_environment(DATABASE_URL=url, REDIS_URL=valkey.url)
        web = stack.enter_context(WebProcess(folder, database_url=url, redis_url=valkey.url))
        command = Command(["app.cli", "worker", "-n", "1"], folder=folder, environment=settings)
        worker = stack.enter_context(command)
        wait_until(lambda: redis.scard("rq:workers") == 1, what="a worker")
        _post_for(web, _MEMORY_LOAD_S)
        processes = {"web, master": [web.pid], "web": find_descendants(web.pid)}
        processes |= {"supervisor": [worker.pid], "worker": find_descendants(worker.pid)}
        return [_memory_row(backlog, name, pid) for name, pids in processes.items() for pid in pids]


def _post_for(web: WebProcess, seconds: float) -> None:
    deadline, number = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        assert web.post(BODY.replace(b"c-1", b"fresh-%d" % number)).http_status == 200
        number += 1


def _memory_row(backlog: int, name: str, pid: int) -> dict[str, Any]:
    resident_kib, peak_kib = read_memory_kib(pid)
    memory = {"rss_mib": resident_kib / 1024, "peak_mib": peak_kib / 1024}
    return {"backlog": backlog, "process": name, **memory}


def main() -> None:
    """Print a table for each situation, and one of the memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="deliveries in the inboxes")
    parser.add_argument(
        "--rounds", type=int, default=10, help="rounds of each situation (default: %(default)s)"
    )
    parser.add_argument(
        "--calls",
        type=int,
        default=_CALLS_PER_ROUND,
        help="calls of each operation in a round (default: %(default)s)",
    )
    parser.add_argument(
        "--backlog",
        type=int,
        default=_BACKLOG,
        help="pending deliveries while memory is measured; 0 skips the memory (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="file to save the measurements to")
    options = parser.parse_args()
    with _running_postgres() as server:
        samples = _measure(server, sorted(options.sizes), options.rounds, options.calls)
        summaries = _summarize_samples(samples)
        for situation in dict.fromkeys(summary.situation for summary in summaries):
            _print_situation(summaries, situation)
        print(
            f"\nBold: off by more than {_TOLERANCE:.0%}. With a backlog, a sweep leases {MAX_PER_SWEEP} "
            "deliveries; otherwise none is due. `count` reads all rows and is not meant to be flat."
        )
        memory = _measure_memory(server, options.backlog) if options.backlog else []
    save_results(options.json, [*map(asdict, summaries), *memory])


if __name__ == "__main__":
    main()
