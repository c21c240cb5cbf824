"""Whether a delivery costs the same however many there are: `python -m benchmarks.growth [--sizes N …] …`.

Calls everything that the service asks its store for, on a durable PostgreSQL, in inboxes of several sizes in
turns, so that whatever else the machine does hits all of them: after months of traffic ("history": all
settled, vacuumed); when a backlog then comes that the statistics do not know yet ("surprise"); when that was
worked off, just before autovacuum comes ("unvacuumed"); and with all pending and due ("backlog"). Shows
medians. What the server did is told by its CPU time and the pages it looked at, which no other load changes
much. Then: what memory the processes take with and without a backlog of a million.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

from benchmarks.inbox_of import fill, surprise, unlimited, wear
from benchmarks.memory import BACKLOG, measure_memory
from benchmarks.operations import MOST_PER_WAKE, Sample, Site, Situation
from benchmarks.results import save
from tests.servers.postgres import PostgresServer

_CYCLES_PER_ROUND = 20
_TOLERANCE = 0.2
_SIZES = (1_000, 100_000, 1_000_000, 10_000_000)


@contextmanager
def _postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PostgresServer(Path(folder), is_durable=True)
        try:
            with unlimited(server.url("postgres")) as connection:
                # Filling is not to be held up, nor measuring disturbed, by checkpoints.
                connection.execute("ALTER SYSTEM SET max_wal_size = '8GB'")
                connection.execute("ALTER SYSTEM SET checkpoint_timeout = '1h'")
                connection.execute("SELECT pg_reload_conf()")
            yield server
        finally:
            server.stop()


def _measure(server: PostgresServer, sizes: Sequence[int], rounds: int) -> list[Sample]:
    samples = []
    with _filled(server, sizes, is_pending=False) as urls:
        samples += _in_turns(urls, "history", rounds)
        for size, url in urls.items():
            print(f"{size:,}: {surprise(url, size):,} more wait", flush=True)
        samples += _in_turns(urls, "surprise", rounds)
        for size, url in urls.items():
            print(f"{size:,}: {wear(url, size):,} more came and went", flush=True)
        samples += _in_turns(urls, "unvacuumed", rounds)
    with _filled(server, sizes, is_pending=True) as urls:
        samples += _in_turns(urls, "backlog", rounds)
    return samples


@contextmanager
def _filled(server: PostgresServer, sizes: Sequence[int], *, is_pending: bool) -> Iterator[dict[int, str]]:
    """Yield the URL of a database of each size."""
    with ExitStack() as stack:
        urls = {}
        for size in sizes:
            began = perf_counter()
            urls[size] = stack.enter_context(server.database())
            fill(urls[size], size, is_pending=is_pending)
            print(f"{size:,}: filled in {perf_counter() - began:.0f} s", flush=True)
        yield urls


def _in_turns(urls: dict[int, str], situation: Situation, rounds: int) -> list[Sample]:
    with ExitStack() as stack:
        sites = [stack.enter_context(Site(url, size, situation)) for size, url in urls.items()]
        for number in range(rounds + 1):
            for _ in range(_CYCLES_PER_ROUND):
                for site in sites:
                    site.work()
            for site in sites:
                site.restore()
                if number == 0:
                    # Plans and caches are as they will be; forget what came before.
                    site.samples.clear()
        for site in sites:
            site.count()
        return [sample for site in sites for sample in site.samples]


def _print_table(samples: Sequence[Sample], situation: Situation) -> None:
    own = [sample for sample in samples if sample.situation == situation]
    sizes = sorted({sample.size for sample in own})
    print(f"\n{situation}: µs for a delivery, or a call\n")
    print("| | " + " | ".join(f"{size:,}" for size in sizes) + " | ratio | CPU µs | ratio | pages | ratio |")
    print("|---|" + "--:|" * (len(sizes) + 5))
    for operation in dict.fromkeys(sample.operation for sample in own):
        costs = [[s.cost for s in own if (s.operation, s.size) == (operation, size)] for size in sizes]
        times = [[cost.elapsed_us for cost in of_size] for of_size in costs]
        row = [_shown(of_size) for of_size in times] + [_ratio(times[0], times[-1])]
        for kind in ("cpu_us", "buffers"):
            least, most = ([float(getattr(cost, kind)) for cost in costs[index]] for index in (0, -1))
            row += [f"{median(least):,.1f} → {median(most):,.1f}", _ratio(least, most)]
        print(f"| {operation} | " + " | ".join(row) + " |", flush=True)


def _shown(times_us: Sequence[float]) -> str:
    if len(times_us) < 4:
        return f"{median(times_us):,.0f}"
    low, middle, high = quantiles(times_us, n=4)
    return f"{middle:,.0f} ±{(high - low) / 2 / middle:.0%}"


def _ratio(least: Sequence[float], most: Sequence[float]) -> str:
    if not median(least):
        return "-"
    ratio = median(most) / median(least)
    return f"{ratio:.2f}" if abs(ratio - 1) <= _TOLERANCE else f"**{ratio:.2f}**"


def main() -> None:
    """Print a table for each situation, and one of the memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="deliveries in the inbox")
    parser.add_argument("--rounds", type=int, default=10, help=f"of {_CYCLES_PER_ROUND} calls each")
    parser.add_argument("--backlog", type=int, default=BACKLOG, help="for the memory; 0: do not measure it")
    parser.add_argument("--json", type=Path, help="save what was measured")
    options = parser.parse_args()
    with _postgres() as server:
        samples = _measure(server, sorted(options.sizes), options.rounds)
        for situation in dict.fromkeys(sample.situation for sample in samples):
            _print_table(samples, situation)
        print(
            f"\nBold: off by more than {_TOLERANCE:.0%}. With a backlog, a sweep takes {MOST_PER_WAKE}; "
            "else it finds nothing. `count` reads all there is, and is not meant to be flat."
        )
        memory = measure_memory(server, options.backlog) if options.backlog else []
    save(options.json, [*(sample.as_row() for sample in samples), *memory])


if __name__ == "__main__":
    main()
