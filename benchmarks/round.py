"""One round of one subject: its duration, and the CPU time of each process."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.processes import find_descendants

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Round:
    """The measurements of one round. cpu_s: CPU seconds by part (web, workers, postgres …)."""

    records: int
    seconds: float
    cpu_s: Mapping[str, float]

    @property
    def records_per_s(self) -> float:
        """Records a second."""
        return self.records / self.seconds


class RoundTimer:
    """Measures a round from its construction on. pids: one process by part, watched with its children."""

    def __init__(self, **pids: int) -> None:
        self._meter = CpuMeter({part: partial(list_process_tree, pid) for part, pid in pids.items()})
        self._started = time.perf_counter()

    def stop(self, records: int, **cpu_s: float) -> Round:
        """Return the round. cpu_s: of processes that measured themselves or have ended."""
        seconds = time.perf_counter() - self._started
        return Round(records, seconds, self._meter.read_s() | cpu_s)


class CpuMeter:
    """Measures the CPU time of several parts from its construction on.

    parts: the current process ids of each part. A process that ends meanwhile must be the child of another
    process of its part.
    """

    def __init__(self, parts: Mapping[str, Callable[[], Iterable[int]]]) -> None:
        self._parts = parts
        self._before_s = self._read()

    def read_s(self) -> dict[str, float]:
        """Return the CPU seconds that each part has used so far."""
        return {part: cpu_s - self._before_s[part] for part, cpu_s in self._read().items()}

    def _read(self) -> dict[str, float]:
        return {part: sum(map(_read_cpu_s, pids())) for part, pids in self._parts.items()}


def list_process_tree(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    return [pid, *find_descendants(pid)]


def read_memory_kib(pid: int) -> tuple[int, int]:
    """Return a process's resident memory and its peak (VmRSS, VmHWM), in KiB. Source: proc(5)."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident_kib, peak_kib = (int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return resident_kib, peak_kib


def read_shared_memory_kib(pid: int) -> int:
    """Return a process's memory, with its part of shared pages (PSS), in KiB. Source: proc(5), smaps."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _read_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and of its children that have ended; 0 if it is gone.

    The scheduler counts in ns: ticks of 10 ms are too coarse for a server that needs 20 µs a delivery.
    Children
    that have ended (PostgreSQL's connections) leave only ticks.
    Source: proc(5); the kernel's Documentation/scheduler/sched-stats.rst.
    """
    process = Path(f"/proc/{pid}")
    # A process's own schedstat covers its first thread only.
    own_ns = sum(int((_read_text(file) or "0").split()[0]) for file in process.glob("task/*/schedstat"))
    # The file's 16th and 17th fields, cutime and cstime; the first two end with the command's bracket.
    children_ticks = _read_text(process / "stat").rpartition(")")[2].split()[13:15]
    return own_ns / 1e9 + sum(map(int, children_ticks)) / _TICKS_PER_S


def _read_text(file: Path) -> str:
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
