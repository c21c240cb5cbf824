"""Whether a delivery costs the same however many there are: `python -m benchmarks.growth [--sizes N …] …`.

Calls everything that the service asks its store for, on a durable PostgreSQL, in inboxes of several sizes in
turns, so that whatever else the machine does hits all of them: after months of traffic ("history": all
settled, vacuumed); when a backlog then comes that the statistics do not know yet ("surprise"); when that was
worked off, just before autovacuum comes ("unvacuumed"); and with all pending and due ("backlog"). Shows
medians. What the server did is told by its CPU time and the pages it looked at, which no other load changes
much. Then: what memory the processes take with and without a backlog of a million.

Ten million deliveries take 8 GB of disk and, with all sizes, a quarter of an hour.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from benchmarks.memory import BACKLOG, measure_memory
from benchmarks.overdue import add_backlog, age_inbox
from benchmarks.results import save_results
from benchmarks.samples import TOLERANCE, Sample, Situation, print_table, summarize_samples
from benchmarks.seeded_inbox import connect_without_limits, fill_inbox
from benchmarks.store_operations import MAX_PER_SWEEP, MeasuredInbox
from tests.support.postgres import PostgresServer

_CYCLES_PER_ROUND = 20
_SIZES = (1_000, 100_000, 1_000_000, 10_000_000)


@contextmanager
def _postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PostgresServer(Path(folder), is_durable=True)
        try:
            with connect_without_limits(server.url("postgres")) as connection:
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
            print(f"{size:,}: {add_backlog(url, size):,} more wait", flush=True)
        samples += _in_turns(urls, "surprise", rounds)
        for size, url in urls.items():
            print(f"{size:,}: {age_inbox(url, size):,} more came and went", flush=True)
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
            fill_inbox(urls[size], size, is_pending=is_pending)
            print(f"{size:,}: filled in {perf_counter() - began:.0f} s", flush=True)
        yield urls


def _in_turns(urls: dict[int, str], situation: Situation, rounds: int) -> list[Sample]:
    with ExitStack() as stack:
        sites = [stack.enter_context(MeasuredInbox(url, size, situation)) for size, url in urls.items()]
        for number in range(rounds + 1):
            for _ in range(_CYCLES_PER_ROUND):
                for site in sites:
                    site.call_all()
            for site in sites:
                site.restore()
                if number == 0:
                    # Plans and caches are as they will be; forget what came before.
                    site.samples.clear()
        for site in sites:
            site.measure_count()
        return [sample for site in sites for sample in site.samples]


def main() -> None:
    """Print a table for each situation, and one of the memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="deliveries in the inbox")
    parser.add_argument("--rounds", type=int, default=10, help=f"of {_CYCLES_PER_ROUND} calls each")
    parser.add_argument("--backlog", type=int, default=BACKLOG, help="for the memory; 0: do not measure it")
    parser.add_argument("--json", type=Path, help="save what was measured")
    options = parser.parse_args()
    with _postgres() as server:
        summaries = summarize_samples(_measure(server, sorted(options.sizes), options.rounds))
        for situation in dict.fromkeys(summary.situation for summary in summaries):
            print_table(summaries, situation)
        print(
            f"\nBold: off by more than {TOLERANCE:.0%}. With a backlog, a sweep takes {MAX_PER_SWEEP}; "
            "else it finds nothing. `count` reads all there is, and is not meant to be flat."
        )
        memory = measure_memory(server, options.backlog) if options.backlog else []
    save_results(options.json, [*map(asdict, summaries), *memory])


if __name__ == "__main__":
    main()
