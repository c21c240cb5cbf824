"""Signed deliveries during attacks of unsigned clients: `python -m benchmarks.attacks [ATTACK …]`.

For each attack: the CPU time of both web processes while nothing else is sent, as a share of one core and
for each refused request; and the time of an answer before, during and 5 s after it. Two attackers together
try to hold more connections than both web processes have places, and open a new one for each that is closed.
A sender
posts 50 signed deliveries a second on 16 connections, and reconnects where one is closed; with --new, each
delivery has a new connection. A time counts from the moment at which a delivery was due.

All share the cores. On a busy machine, run it as root with `chrt -f 1`: other programs then wait for the
receiver, the database and the sender. The attackers run with the lowest priority, because a real attacker
brings its own processor, and pause for 50 ms before each new connection.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import gevent
import httpx
from gevent import socket

from app.truto.target_url import WEBHOOK_PATH
from benchmarks.environment import running_environment
from benchmarks.payloads import RequestStream
from benchmarks.results import save_results
from benchmarks.round import CpuMeter, list_process_tree
from tests.support.attacker import ATTACKS, Attackers
from tests.support.web_process import WebProcess

_SENDERS = 16
_PER_S = 50
_TIMEOUT_S = 30
# Until the attackers hold their connections, and from their end until the last measurement.
_PAUSE_S = 2.0
_RECOVERY_S = 5.0
_BEFORE_COLUMNS = ("p50 of before", "p99 of before", "p99 5 s after of before")
_COST_COLUMNS = ("refused/s", "CPU µs each", "CPU share")
_COLUMNS = ("attack", *_COST_COLUMNS, "p50 ms", "p99 ms", "max ms", "failed", *_BEFORE_COLUMNS)


@dataclass(slots=True)
class _Answers:
    times_s: list[float] = field(default_factory=list)
    failed: int = 0

    def percentile_ms(self, percent: float) -> float:
        times_s = sorted(self.times_s) or [float("inf")]
        return times_s[min(len(times_s) - 1, int(len(times_s) * percent / 100))] * 1000


class _Sender:
    """One sender with a connection that it keeps for as long as the receiver does."""

    def __init__(self, port: int, requests: Iterator[bytes], *, keeps_connection: bool) -> None:
        self._port = port
        self._requests = requests
        self._keeps_connection = keeps_connection
        self._connection: socket.socket | None = None

    def send_until(self, deadline: float, first_at: float, answers: _Answers) -> None:
        for number in itertools.count():
            due_at = first_at + number * _SENDERS / _PER_S
            if due_at > deadline:
                return
            gevent.sleep(max(0.0, due_at - time.perf_counter()))
            if self._post(next(self._requests)):
                answers.times_s.append(time.perf_counter() - due_at)
            else:
                answers.failed += 1

    def _post(self, request: bytes) -> bool:
        # A kept connection may have been closed while it was idle: every client then opens a new one.
        return (self._connection is not None and self._exchange(request)) or self._exchange(request)

    def _exchange(self, request: bytes) -> bool:
        answer = b""
        try:
            if self._connection is None:
                self._connection = socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT_S)
            self._connection.sendall(request)
            while not answer.endswith(b"}\n"):
                part = self._connection.recv(65536)
                if not part:
                    break
                answer += part
        except OSError:
            answer = b""
        if not self._keeps_connection or not answer.endswith(b"}\n") or b"Connection: close" in answer:
            self._close()
        return answer.startswith(b"HTTP/1.1 200 ")

    def _close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


def _measure(senders: list[_Sender], seconds: float) -> _Answers:
    answers = _Answers()
    now = time.perf_counter()
    running = [
        gevent.spawn(sender.send_until, now + seconds, now + number / _PER_S, answers)
        for number, sender in enumerate(senders)
    ]
    gevent.joinall(running, raise_error=True)
    return answers


@dataclass(frozen=True, slots=True)
class _Cost:
    """Refused requests, and the CPU seconds of the web processes, in a time."""

    refused: float
    cpu_s: float
    seconds: float

    def to_columns(self) -> str:
        each = f"{self.cpu_s / self.refused * 1e6:.0f}" if self.refused else "-"
        return f"{self.refused / self.seconds:.0f} | {each} | {self.cpu_s / self.seconds:.0%}"


def _measure_cost(web: WebProcess, seconds: float) -> _Cost:
    refused, started = _count_refused(web), time.perf_counter()
    meter = CpuMeter({"web": partial(list_process_tree, web.pid)})
    gevent.sleep(seconds)
    cpu_s, seconds = meter.read_s()["web"], time.perf_counter() - started
    return _Cost(_count_refused(web) - refused, cpu_s, seconds)


def _count_refused(web: WebProcess) -> float:
    lines = httpx.get(f"{web.url}/metrics", timeout=_TIMEOUT_S).text.splitlines()
    counts = [line for line in lines if line.startswith("rapidbridge_webhook_requests_total{")]
    return sum(float(line.split()[-1]) for line in counts if 'status="accepted"' not in line)


def main() -> None:
    """Print a table of the attacks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"default: all of {', '.join(ATTACKS)}")
    parser.add_argument(
        "--connections", type=int, default=640, help="of both attackers (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement (default: %(default)s)")
    parser.add_argument("--new", action="store_true", help="send each delivery on a new connection")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to save the measurements to")
    options = parser.parse_args()
    print(f"| {' | '.join(_COLUMNS)} |\n|---|{'--:|' * (len(_COLUMNS) - 1)}")
    rows = []
    with running_environment() as environment, environment.web(2) as web:
        requests = iter(RequestStream(WEBHOOK_PATH, 1))
        senders = [_Sender(web.port, requests, keeps_connection=not options.new) for _ in range(_SENDERS)]
        _measure(senders, 1.0)
        for attack in options.attacks or ATTACKS:
            before = _measure(senders, options.seconds)
            with Attackers(attack, web.port, connections=options.connections):
                gevent.sleep(_PAUSE_S)
                during = _measure(senders, options.seconds)
                # Last: the idle senders would lose their connections meanwhile.
                cost = _measure_cost(web, options.seconds)
            gevent.sleep(_RECOVERY_S)
            after = _measure(senders, options.seconds)
            p50_ms, p99_ms, max_ms = (during.percentile_ms(percent) for percent in (50, 99, 100))
            p50_before_ms = before.percentile_ms(50)
            before_ms, after_ms = before.percentile_ms(99), after.percentile_ms(99)
            row = {"p50_ms": p50_ms, "p99_ms": p99_ms, "max_ms": max_ms, "failed": during.failed}
            ratios = f"{p50_ms / p50_before_ms:.1f} | {p99_ms / before_ms:.1f} | {after_ms / before_ms:.1f}"
            times = f"{p50_ms:.1f} | {p99_ms:.1f} | {max_ms:.0f} | {during.failed}"
            print(f"| {attack} | {cost.to_columns()} | {times} | {ratios} |", flush=True)
            before_row = {"p50_before_ms": p50_before_ms, "p99_before_ms": before_ms}
            rows.append({"attack": attack, **asdict(cost), **row, **before_row, "p99_after_ms": after_ms})
    save_results(options.json, rows)


if __name__ == "__main__":
    main()
