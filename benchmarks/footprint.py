"""Memory, and time to start: `python -m benchmarks.footprint [--seconds S] [--rounds R] [--json FILE]`.

Resident memory of each process, idle and under bodies of 500 records over 16 connections while one worker
drains them: as it stands afterwards, and the most there ever was. A process's figure includes pages that it
shares with others. Times to start are medians; Python's own stand beside them.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from app.truto.target_url import WEBHOOK_PATH
from benchmarks import results
from benchmarks.load import Requests, send
from benchmarks.stage import BenchmarkEnvironment, running_environment
from benchmarks.starts import build_start_timers, measure_imports
from tests.support.processes import Command, find_descendants
from tests.support.web_process import WebProcess

_RECORDS, _CONNECTIONS, _WEB_PROCESSES = 500, 16, 2
_MOST_MB = {"web": 90.0, "worker": 120.0}
_MOST_S = {"rapidbridge --help": 0.3, "web, first answer": 1.5}
_IMPORTS_SHOWN = 12

_Row = dict[str, Any]


def _memory(stage: BenchmarkEnvironment, seconds: float) -> list[_Row]:
    with stage.web(_WEB_PROCESSES) as web, stage.running_workers(1) as command:
        idle = _resident_mb(web, command)
        load = send(web.port, Requests(WEBHOOK_PATH, _RECORDS), connections=_CONNECTIONS, seconds=seconds)
        after = _resident_mb(web, command)
    print(f"\nResident memory, MB; {load.per_s:,.0f} deliveries of {_RECORDS} records/s\n")
    return [
        {
            "process": name,
            "idle_mb": round(idle[name][0], 1),
            "after_mb": round(now, 1),
            "most_mb": round(most, 1),
            "target_mb": _MOST_MB.get(name.partition(" ")[0]),
        }
        for name, (now, most) in after.items()
    ]


def _resident_mb(web: WebProcess, command: Command) -> dict[str, tuple[float, float]]:
    """Return VmRSS and VmHWM by process, in MB (10^6 bytes). Source: proc(5)."""
    pids = {f"web {place}": pid for place, pid in enumerate(sorted(find_descendants(web.pid)), 1)}
    pids |= {"gunicorn's master": web.pid, "supervisor of workers": command.pid}
    pids |= {f"worker {place}": pid for place, pid in enumerate(sorted(find_descendants(command.pid)), 1)}
    return {name: _status_mb(pid) for name, pid in pids.items()}


def _status_mb(pid: int) -> tuple[float, float]:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    now_kib, most_kib = (int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return now_kib * 1024 / 1e6, most_kib * 1024 / 1e6


def _start_times(stage: BenchmarkEnvironment, rounds: int) -> list[_Row]:
    startable = build_start_timers(stage)
    times: dict[str, list[float]] = {name: [] for name in startable}
    for _ in range(rounds):
        # In turns, so that whatever else the machine does hits all of them.
        for name, start in startable.items():
            times[name].append(start())
    return [
        {"start": name, "median_s": round(median(took), 3), "least_s": round(min(took), 3)}
        | {"most_s": round(max(took), 3), "target_s": _MOST_S.get(name)}
        for name, took in times.items()
    ]


def _import_times(found: Mapping[str, Counter[str]]) -> list[_Row]:
    return [
        {"imported_by": name, "package": package, "ms": round(own_us / 1e3, 1)}
        | {"share": round(own_us / packages.total(), 3)}
        for name, packages in found.items()
        for package, own_us in packages.most_common(_IMPORTS_SHOWN)
    ]


def _table(rows: Sequence[_Row]) -> Iterator[str]:
    names = list(rows[0])
    yield f"| {' | '.join(name.replace('_', ' ') for name in names)} |"
    yield "|" + "|".join("---" if isinstance(rows[0][name], str) else "--:" for name in names) + "|"
    for row in rows:
        yield "| " + " | ".join("" if row[name] is None else str(row[name]) for name in names) + " |"


def main() -> None:
    """Print a table of memory, one of times, one of imports."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="under load (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="starts of each (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    options = parser.parse_args()
    with running_environment() as stage:
        memory = _memory(stage, options.seconds)
        print(*_table(memory), sep="\n")
        # Or a worker that starts has all of it to drain first.
        stage.delete_deliveries()
        times = _start_times(stage, options.rounds)
        print("\nTimes to start, s\n", *_table(times), sep="\n")
        imported = _import_times(measure_imports(stage))
        print("\nImports, by package, without those of others\n", *_table(imported), sep="\n")
    results.save_results(options.json, [*memory, *times, *imported])


if __name__ == "__main__":
    main()
