"""Memory, and time to start: `python -m benchmarks.footprint [--seconds S] [--rounds R] [--json FILE]`.

Memory of one web process, one worker and the processes around them: idle, and under bodies of 500 records
over 16 connections, at the most and afterwards. A page that several processes share counts in equal parts
(PSS), so that the sum is the memory that all of them take. Times to start are medians; Python's own stand
beside them.
"""

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import gevent

from app.truto.target_url import WEBHOOK_PATH
from app.web.enqueuer import NewDelivery
from benchmarks.environment import BenchmarkEnvironment, running_environment
from benchmarks.load import send_for
from benchmarks.payloads import RequestStream
from benchmarks.results import save_results
from benchmarks.round import read_shared_memory_kib
from tests.support.processes import ROOT, Command, find_descendants
from tests.support.redis_keys import open_queue
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess

_RECORDS, _CONNECTIONS = 500, 16
_SAMPLE_INTERVAL_S = 0.25
_ALL = "all processes"
# Three quarters of the smallest dyno.
_TARGETS_MB = {"web 1": 85.0, _ALL: 384.0}
_TARGETS_S = {"rapidbridge --help": 0.3, "web, first answer": 1.5}
_IMPORTS_SHOWN = 12
_HELP = ("-m", "app.cli", "--help")
# Python's own report of an import: µs without nested imports, µs with them, and its name.
_IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +([\w.]+)", re.MULTILINE)

_Row = dict[str, Any]


def _measure_memory(environment: BenchmarkEnvironment, seconds: float) -> list[_Row]:
    with environment.web(1) as web, environment.running_workers(1) as command:
        pids = _find_processes(web, command)
        idle = _read_memory_mb(pids)
        most_mb = dict(idle)
        sampler = gevent.spawn(_sample_memory, pids, most_mb)
        requests = RequestStream(WEBHOOK_PATH, _RECORDS)
        load = send_for(web.port, requests, connections=_CONNECTIONS, seconds=seconds)
        sampler.kill()
        after = _read_memory_mb(pids)
    print(f"\nMemory (PSS), MB; {load.per_s:,.0f} deliveries of {_RECORDS} records/s\n")
    return [
        {
            "process": name,
            "idle_mb": round(idle[name], 1),
            "after_mb": round(after_mb, 1),
            "most_mb": round(max(most_mb[name], after_mb), 1),
            "target_mb": _TARGETS_MB.get(name),
        }
        for name, after_mb in after.items()
    ]


def _find_processes(web: WebProcess, command: Command) -> dict[str, int]:
    [web_pid], [worker_pid] = find_descendants(web.pid), find_descendants(command.pid)
    around = {"gunicorn's master": web.pid, "supervisor of workers": command.pid}
    return {"web 1": web_pid, "worker 1": worker_pid, **around}


def _read_memory_mb(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the memory of processes and its sum, in MB (10^6 bytes)."""
    memory_mb = {name: read_shared_memory_kib(pid) * 1024 / 1e6 for name, pid in pids.items()}
    return memory_mb | {_ALL: sum(memory_mb.values())}


def _sample_memory(pids: Mapping[str, int], most_mb: dict[str, float]) -> None:
    while True:
        gevent.sleep(_SAMPLE_INTERVAL_S)
        for name, now_mb in _read_memory_mb(pids).items():
            most_mb[name] = max(most_mb[name], now_mb)


def _measure_starts(environment: BenchmarkEnvironment, rounds: int) -> list[_Row]:
    starts: dict[str, Callable[[], float]] = {
        "python -c pass": lambda: _run_python_s("-c", "pass"),
        'python -c "import flask, gunicorn"': lambda: _run_python_s("-c", "import flask, gunicorn"),
        "rapidbridge --help": lambda: _run_python_s(*_HELP),
        "web, first answer": lambda: _start_web_s(environment),
        "worker, first job taken": lambda: _start_worker_s(environment),
    }
    times: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(rounds):
        # In turns, so that other load on the machine affects all of them.
        for name, start in starts.items():
            times[name].append(start())
    return [
        {"start": name, "median_s": round(median(took_s), 3), "least_s": round(min(took_s), 3)}
        | {"most_s": round(max(took_s), 3), "target_s": _TARGETS_S.get(name)}
        for name, took_s in times.items()
    ]


def _run_python_s(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _start_web_s(environment: BenchmarkEnvironment) -> float:
    web = environment.web(2)
    started = time.perf_counter()
    with web:
        return time.perf_counter() - started


def _start_worker_s(environment: BenchmarkEnvironment) -> float:
    environment.redis.flushall()
    # No delivery has this id: the worker takes the job and has nothing to do.
    queue = open_queue(environment.redis, environment.database)
    queue.enqueue([NewDelivery(uuid4())])
    command = environment.worker_command(1)

    def is_job_taken() -> bool:
        assert command.process.poll() is None, command.log
        return not environment.redis.llen(f"rq:queue:{queue.name}")

    started = time.perf_counter()
    with command:
        wait_until(is_job_taken, what=lambda: command.log)
        return time.perf_counter() - started


def _measure_imports(environment: BenchmarkEnvironment) -> list[_Row]:
    """Return the time of each package's own imports, without nested ones, for `--help` and for web."""
    command = [sys.executable, "-X", "importtime", *_HELP]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    with environment.web(1, PYTHONPROFILEIMPORTTIME="1") as web:
        reports: Mapping[str, str] = {"rapidbridge --help": ran.stderr, "web": web.log}
    rows = []
    for name, report in reports.items():
        packages = _sum_by_package(report)
        rows += [
            {"imported_by": name, "package": package, "ms": round(own_us / 1e3, 1)}
            | {"share": round(own_us / packages.total(), 3)}
            for package, own_us in packages.most_common(_IMPORTS_SHOWN)
        ]
    return rows


def _sum_by_package(report: str) -> Counter[str]:
    packages: Counter[str] = Counter()
    for own_us, module in _IMPORT.findall(report):
        package = module.partition(".")[0]
        packages["Python's own" if package in sys.stdlib_module_names else package] += int(own_us)
    return packages


def _render_table(rows: Sequence[_Row]) -> Iterator[str]:
    names = list(rows[0])
    yield f"| {' | '.join(name.replace('_', ' ') for name in names)} |"
    yield "|" + "|".join("---" if isinstance(rows[0][name], str) else "--:" for name in names) + "|"
    for row in rows:
        yield "| " + " | ".join("" if row[name] is None else str(row[name]) for name in names) + " |"


def main() -> None:
    """Print tables of memory, of times to start, and of imports."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="length of the load (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="starts of each process (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to save the measurements to")
    options = parser.parse_args()
    with running_environment() as environment:
        memory = _measure_memory(environment, options.seconds)
        print(*_render_table(memory), sep="\n")
        # Otherwise a worker that starts has all of them to drain first.
        environment.delete_deliveries()
        times = _measure_starts(environment, options.rounds)
        print("\nTimes to start, s\n", *_render_table(times), sep="\n")
        imports = _measure_imports(environment)
        print("\nImports, by package, without those of others\n", *_render_table(imports), sep="\n")
    save_results(options.json, [*memory, *times, *imports])


if __name__ == "__main__":
    main()
