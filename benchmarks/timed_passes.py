"""Processes that load the same records in several passes, each started and timed by the benchmark.

A process prints "ready" once it has imported its libraries. For each line that it reads, it runs one pass and
prints the CPU seconds of that pass. Uses the standard library only, because it runs in the other loaders'
virtual environments too.
"""

import os
import resource
import select
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_TIMEOUT_S = 900.0
_ROOT = Path(__file__).parents[1]


class PassFailed(Exception):
    """A process ended or did not answer; the message has the end of its log."""


class TimedProcess:
    """A loader's process. log: the file that its output is added to. Call `close` at the end."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env=os.environ | dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )

    def wait_until_ready(self) -> None:
        """Return once the first pass can begin; raises PassFailed."""
        if self._read_line() != "ready":
            self._fail("did not start")

    def start_pass(self) -> None:
        """Start the next pass."""
        assert self._process.stdin
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def finish_pass(self) -> float:
        """Wait for the end of the pass; return its CPU seconds. Raises PassFailed."""
        line = self._read_line()
        if not line:
            self._fail("failed")
        return float(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _read_line(self) -> str:
        output = self._process.stdout
        assert output
        if not select.select([output], [], [], _TIMEOUT_S)[0]:
            self._fail(f"did not answer within {_TIMEOUT_S:g} s")
        return output.readline().decode().strip()

    def _fail(self, problem: str) -> None:
        lines = self._log.read_text(errors="replace").splitlines()[-20:]
        raise PassFailed("\n".join([f"{' '.join(self._process.args)}: {problem}", *lines]))  # type: ignore[arg-type]


def serve_passes(run_pass: Callable[[int], None]) -> None:
    """Run a pass for each line of the standard input. run_pass: gets the number of the pass, from 0 on."""
    # Loaders print to the standard output: move it, so that only the answers reach the benchmark.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=answers, flush=True)
    for number, _ in enumerate(sys.stdin):
        before_s = _read_cpu_s()
        run_pass(number)
        print(_read_cpu_s() - before_s, file=answers, flush=True)


def _read_cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
