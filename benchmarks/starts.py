"""How long processes take until they are of use, and what they import meanwhile."""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from uuid import uuid4

from app.redis.queue import QUEUE_NAME, DeliveryQueue
from app.web.enqueuer import NewDelivery
from benchmarks.environment import BenchmarkEnvironment
from tests.support.processes import ROOT, Command
from tests.support.waiting import wait_until

_HELP = ("-m", "app.cli", "--help")
# Python's own report of each import: µs without what it imports in turn, µs with it, and its name.
_IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +([\w.]+)", re.MULTILINE)


def build_start_timers(environment: BenchmarkEnvironment) -> dict[str, Callable[[], float]]:
    """Return what can be started, each as a function that does it once and returns the seconds it took."""
    return {
        "python -c pass": lambda: _run_s("-c", "pass"),
        'python -c "import flask, gunicorn"': lambda: _run_s("-c", "import flask, gunicorn"),
        "rapidbridge --help": lambda: _run_s(*_HELP),
        "web, first answer": lambda: _web_s(environment),
        "worker, first job taken": lambda: _worker_s(environment),
    }


def measure_imports(environment: BenchmarkEnvironment) -> dict[str, Counter[str]]:
    """Return the µs that each package's imports take, without those of others: for `--help`, and for web."""
    command = [sys.executable, "-X", "importtime", *_HELP]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    with environment.web(1, PYTHONPROFILEIMPORTTIME="1") as web:
        said = web.log
    return {"rapidbridge --help": _by_package(ran.stderr), "web": _by_package(said)}


def _run_s(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _web_s(stage: BenchmarkEnvironment) -> float:
    web = stage.web(2)
    began = time.perf_counter()
    with web:
        return time.perf_counter() - began


def _worker_s(stage: BenchmarkEnvironment) -> float:
    stage.redis.flushall()
    # No delivery has this id: the job is taken, and finds nothing to do.
    DeliveryQueue(stage.redis).enqueue([NewDelivery(uuid4())])
    command = stage.worker_command(1)
    began = time.perf_counter()
    with command:
        wait_until(lambda: _is_taken(stage, command), what=lambda: command.log)
        return time.perf_counter() - began


def _is_taken(stage: BenchmarkEnvironment, command: Command) -> bool:
    assert command.process.poll() is None, command.log
    return not stage.redis.llen(f"rq:queue:{QUEUE_NAME}")


def _by_package(report: str) -> Counter[str]:
    packages: Counter[str] = Counter()
    for own_us, module in _IMPORT.findall(report):
        package = module.partition(".")[0]
        packages["Python's own" if package in sys.stdlib_module_names else package] += int(own_us)
    return packages
