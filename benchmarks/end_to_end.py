"""How many records a second reach PostgreSQL: `python -m benchmarks.end_to_end [--records N] …`.

Compares within one run on one machine, in turns, medians of several, each turn on an empty database of one
PostgreSQL that commits durably:

- the receiver, from the first POST to the last delivery settled; and its workers alone, which drain what was
  stored before;
- the very statement that its SQL sink executes and nothing else, over one connection and over two: what all
  others are compared with;
- dlt and Meltano's target-postgres, which load the same records from a file, each in the one process that it
  is. They neither receive nor keep anything; the start of the process counts, its installation does not.

Sender, receiver, loaders and databases share the cores. The ratios hold elsewhere, the absolutes do not.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import psycopg

from benchmarks import loaders, results, upsert
from benchmarks.installation import Installation
from benchmarks.payloads import TABLE, make_requests
from benchmarks.round import Round
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer

_BARE = "bare upsert, 1 connection"
_WHOSE = ("client", "web", "workers", "valkey", "postgres")

Contenders = Mapping[str, Callable[[str], Round]]


@contextmanager
def _contenders(options: argparse.Namespace) -> Iterator[tuple[Contenders, PostgresServer]]:
    """Yield what takes a turn on the database of a URL, by name, and the server that has the databases."""
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))) for _ in range(3)]
        postgres = PostgresServer(folders[0], is_durable=True)
        stack.callback(postgres.stop)
        valkey = ValkeyServer(folders[1], "--appendonly", "yes")
        stack.callback(valkey.stop)
        number, size = options.records, options.batch
        installation = Installation(folders[2], valkey, postgres.pid, options.web, options.workers)
        requests = make_requests(number, size)
        bare = partial(upsert.measure_upserts, records=number, size=size, postgres=postgres.pid)
        contenders: dict[str, Callable[[str], Round]] = {
            "receiver": partial(installation.receive, requests=requests, records=number),
            "its workers": partial(installation.drain, requests=requests, records=number),
            _BARE: partial(bare, connections=1),
            "bare upsert, 2 connections": partial(bare, connections=2),
        }
        if not options.without_loaders:
            for loader in loaders.prepare_loaders(options.loaders, folders[2], number):
                contenders[loader.name] = partial(loader.load, records=number, postgres=postgres.pid)
        yield contenders, postgres


def _measure(contenders: Contenders, postgres: PostgresServer, rounds: int) -> dict[str, list[Round]]:
    turns: dict[str, list[Round]] = {name: [] for name in contenders}
    for _ in range(rounds):
        # In turns, so that whatever else the machine does hits all of them.
        for name, run in contenders.items():
            with postgres.database() as url:
                turn = run(url)
                assert _count(url) == turn.records, f"{name}: {_count(url)} rows for {turn.records} records"
            turns[name].append(turn)
    return turns


def _count(url: str) -> int:
    # The receiver's table is in the default schema, the loaders' in one of their own.
    with psycopg.connect(url, options=f"-c search_path={loaders.SCHEMA},public") as connection:
        row = connection.execute(f"SELECT count(*) FROM {TABLE}".encode()).fetchone()
    assert row
    return int(row[0])


def _row(name: str, turns: Sequence[Round], bare: float) -> str:
    rates = [turn.per_s for turn in turns]
    rate, spread = median(rates), (max(rates) - min(rates)) / median(rates)
    cpu = [_cpu_ms(turns, whose) for whose in _WHOSE]
    return f"| {name} | {rate:,.0f} | ±{spread / 2:.0%} | {rate / bare:.0%} | {' | '.join(cpu)} |"


def _cpu_ms(turns: Sequence[Round], whose: str) -> str:
    """Return the CPU milliseconds for 1,000 records, "" for who had no part in it."""
    used = [turn.cpu_s[whose] / turn.records * 1e6 for turn in turns if whose in turn.cpu_s]
    return f"{median(used):.0f}" if used else ""


def _rows(turns: Mapping[str, Sequence[Round]], options: argparse.Namespace) -> list[dict[str, object]]:
    return [
        {
            "contender": name,
            "round": place + 1,
            "records": turn.records,
            "batch": options.batch,
            "seconds": turn.seconds,
            "records_per_s": turn.per_s,
            **{f"{whose}_cpu_s": used for whose, used in turn.cpu_s.items()},
        }
        for name in turns
        for place, turn in enumerate(turns[name])
    ]


def main() -> None:
    """Print a table, a row for each contender."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end", description=__doc__)
    parser.add_argument("--records", type=int, default=50_000, help="in a turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=100, help="records in a delivery (default: %(default)s)")
    # A second one commits and wakes in smaller groups: more CPU, which two cores lack.
    parser.add_argument("--web", type=int, default=1, help="web processes (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument(
        "--loaders",
        type=Path,
        default=Path(tempfile.gettempdir()) / "rapidbridge-loaders",
        help="folder that the other loaders are installed into (default: %(default)s)",
    )
    parser.add_argument("--without-loaders", action="store_true", help="only the receiver and its statement")
    parser.add_argument("--json", type=Path, help="file to save the measurements to")
    options = parser.parse_args()
    with _contenders(options) as (contenders, postgres):
        turns = _measure(contenders, postgres, options.rounds)
    bare = median(turn.per_s for turn in turns[_BARE])
    print(f"\n{options.records} records, {options.batch} in a delivery; CPU in ms for 1,000 records\n")
    print(f"| | records/s | spread | of bare | {' | '.join(f'CPU {whose}' for whose in _WHOSE)} |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in turns:
        print(_row(name, turns[name], bare), flush=True)
    results.save_results(options.json, _rows(turns, options))


if __name__ == "__main__":
    main()
