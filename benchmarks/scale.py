"""What more processes and more cores bring: `python -m benchmarks.scale [--records N] [--seconds S] …`.

Web processes accept, over 32 connections; worker processes drain stored deliveries of 100 records into the
SQL sink on the same PostgreSQL, which commits durably. Sender, servers and databases share this machine's
cores, so the rates end where those do; what carries over to other machines is the CPU time of each part, from
which the last table is worked out. It holds under load: a delivery that comes alone shares its commit and its
job with no other.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import gevent
from redis import Redis

from app.redis.queue import IDS_PER_JOB
from app.truto.target_url import WEBHOOK_PATH
from benchmarks import results
from benchmarks.cpu import Meter, list_process_tree
from benchmarks.drain import RECORDS, count_deliveries_for, drain, pile_up
from benchmarks.load import Requests, send
from benchmarks.sizing import Measurement, render_capacity
from benchmarks.stage import BenchmarkEnvironment, running_environment
from tests.support.processes import find_descendants
from tests.support.web_process import WebProcess

_PROCESSES = (1, 2, 4)
_CONNECTIONS = 32
_WARM_UP_S = 0.5
_WARM_UP_JOBS = 2
_EMPTY_EVERY_S = 0.2

_Part = Callable[[], list[int]]


def _servers(stage: BenchmarkEnvironment) -> dict[str, _Part]:
    return {
        "PostgreSQL": lambda: list_process_tree(stage.postgres.pid),
        "Valkey": lambda: list_process_tree(stage.valkey.pid),
    }


def _accept(
    stage: BenchmarkEnvironment, web: WebProcess, processes: int, records: int, seconds: float
) -> Measurement:
    requests = Requests(WEBHOOK_PATH, records)
    with _emptied(stage.redis):
        send(web.port, requests, connections=_CONNECTIONS, seconds=_WARM_UP_S)
        meter = Meter(
            {"web": lambda: list_process_tree(web.pid), **_servers(stage), "sender": lambda: [os.getpid()]}
        )
        began = time.perf_counter()
        load = send(web.port, requests, connections=_CONNECTIONS, seconds=seconds)
        took_s = time.perf_counter() - began
        return Measurement(processes, records, len(load.times_s), took_s, meter.read_s())


@contextmanager
def _emptied(redis: Redis) -> Iterator[None]:
    """Keep room in the queue, as workers do: beyond its bound nothing is enqueued, and that costs less."""

    def empty() -> None:
        while True:
            redis.flushall()
            gevent.sleep(_EMPTY_EVERY_S)

    emptying = gevent.spawn(empty)
    try:
        yield
    finally:
        emptying.kill()


def _drain(stage: BenchmarkEnvironment, processes: int, seconds: float) -> Measurement:
    with stage.running_workers(processes) as command:

        def turn(deliveries: int) -> Measurement:
            waiting = pile_up(stage, deliveries)
            parts: dict[str, _Part] = {
                "worker": lambda: find_descendants(command.pid),
                "supervisor": lambda: [command.pid],
                **_servers(stage),
            }
            took_s, cpu_s = drain(stage, waiting, Meter(parts))
            return Measurement(processes, RECORDS, deliveries, took_s, cpu_s)

        warm_up = turn(_WARM_UP_JOBS * processes * IDS_PER_JOB)
        return turn(count_deliveries_for(seconds, deliveries_per_s=warm_up.per_s, workers=processes))


def _measure(options: argparse.Namespace) -> tuple[list[Measurement], list[Measurement]]:
    """In turns, so that whatever else the machine does hits all of them."""
    accepting: list[Measurement] = []
    draining: list[Measurement] = []
    with running_environment() as stage, ExitStack() as stack:
        webs = {number: stack.enter_context(stage.web(number)) for number in _PROCESSES}
        for _ in range(options.rounds):
            for number, web in webs.items():
                accepting.append(_accept(stage, web, number, options.records, options.seconds))
        stack.close()
        # What was accepted would be drained along.
        stage.delete_deliveries()
        for _ in range(options.rounds):
            draining += [_drain(stage, number, options.seconds) for number in _PROCESSES]
    return accepting, draining


def _table(turns: Sequence[Measurement], rate: str) -> Iterator[str]:
    parts = list(turns[0].cpu_s)
    yield f"| processes | {rate} | spread | records/s | " + " | ".join(parts) + " | all |"
    yield "|--:|--:|--:|--:|" + "--:|" * (len(parts) + 1)
    for number in _PROCESSES:
        yield _row(number, [turn for turn in turns if turn.processes == number], parts)


def _row(number: int, turns: Sequence[Measurement], parts: Sequence[str]) -> str:
    rates = [turn.per_s for turn in turns]
    rate, spread, records = median(rates), (max(rates) - min(rates)) / median(rates), turns[0].records
    costs: Mapping[str, float] = {part: median(turn.part_us(part) for turn in turns) for part in parts}
    cells = [f"{cost:,.0f} ({cost / records:.1f})" for cost in [*costs.values(), sum(costs.values())]]
    return f"| {number} | {rate:,.0f} | ±{spread / 2:.0%} | {rate * records:,.0f} | {' | '.join(cells)} |"


def main() -> None:
    """Print what was measured, then what follows from it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--records", type=int, default=50, help="in a body accepted (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    options = parser.parse_args()
    accepting, draining = _measure(options)
    print(f"\nAccepting {options.records} records: µs of CPU a delivery (a record)\n")
    print(*_table(accepting, "accepted/s"), sep="\n")
    print(f"\nDraining {RECORDS} records: µs of CPU a delivery (a record)\n")
    print(*_table(draining, "drained/s"), sep="\n")
    print("\nWhat cores carry\n")
    print(*render_capacity(accepting, draining), sep="\n")
    rows = [turn.as_row("accept") for turn in accepting] + [turn.as_row("drain") for turn in draining]
    results.save_results(options.json, rows)


if __name__ == "__main__":
    main()
