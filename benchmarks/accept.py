"""How many deliveries a second are accepted, and how soon: `python -m benchmarks.accept [--seconds S] …`.

Compares within one run on one machine, in turns, medians of several: the receiver on PostgreSQL and on
SQLite, both committing durably; a Flask application on the same gunicorn that only reads and answers; the
handler that people write by hand; and Debian's `webhook`, a server in Go that checks the signature and runs
a program (`apt-get install webhook`; left out where it is missing). Two server processes; sender, servers and
databases share the cores. The ratios hold elsewhere, the absolutes do not.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.commits import measure_commits
from benchmarks.load import LoadResult, Requests, send
from benchmarks.results import save_results
from benchmarks.servers import ComparedServers, running_servers

_LIMITS = ("bare, gevent", "bare, gthread")
_COLUMNS = ("answers/s", "spread", "of bare", "p50 ms", "p99 ms", "p99.9 ms")


def _measure(
    found: ComparedServers, options: argparse.Namespace, records: int, at_once: int
) -> Mapping[str, list[LoadResult]]:
    turns: dict[str, Callable[[], LoadResult]] = {
        name: partial(send, port, Requests(path, records), connections=at_once, seconds=options.seconds)
        for name, (port, path) in found.addresses.items()
    }
    if at_once == 1:
        # Alone, a delivery takes one commit and what is around it.
        for name, url in found.database_urls.items():
            bodies = Requests("/", records).bodies()
            turns[f"commit alone, {name}"] = partial(measure_commits, url, bodies, seconds=options.seconds)
    loads: dict[str, list[LoadResult]] = {name: [] for name in turns}
    for _ in range(options.rounds):
        # In turns, so that whatever else the machine does hits all of them.
        for name, turn in turns.items():
            found.redis.flushall()
            loads[name].append(turn())
    return loads


def _row(name: str, loads: list[LoadResult], limit: float) -> dict[str, Any]:
    rates = [load.per_s for load in loads]
    rate = median(rates)
    times = {
        f"p{percent:g}_ms": median(load.percentile(percent) for load in loads) * 1000
        for percent in (50, 99, 99.9)
    }
    spread = (max(rates) - min(rates)) / 2 / rate
    return {"contender": name, "per_s": rate, "spread": spread, "of_bare": rate / limit, **times}


def _line(row: Mapping[str, Any]) -> str:
    times = " | ".join(f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms", "p99.9_ms"))
    ratios = f"±{row['spread']:.0%} | {row['of_bare']:.0%}"
    return f"| {row['contender']} | {row['per_s']:,.0f} | {ratios} | {times} |"


def main() -> None:
    """Print a table for each size of body and number of connections."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accept", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: %(default)s)")
    parser.add_argument("--records", type=int, nargs="+", default=[1, 50, 500], help="in a body")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64], help="that send at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the figures")
    options = parser.parse_args()
    rows = []
    with running_servers() as found:
        for records in options.records:
            for at_once in options.connections:
                loads = _measure(found, options, records, at_once)
                limit = max(median(load.per_s for load in loads[name]) for name in _LIMITS)
                print(f"\n{records} records, {at_once} connections\n")
                print(f"| | {' | '.join(_COLUMNS)} |")
                print("|---|" + "--:|" * len(_COLUMNS))
                for name in loads:
                    row = _row(name, loads[name], limit)
                    print(_line(row), flush=True)
                    rows.append({"records": records, "connections": at_once, **row})
    save_results(options.json, rows)


if __name__ == "__main__":
    main()
