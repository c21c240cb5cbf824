"""The CPU time of processes: what a delivery costs, however busy the machine is with other things."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.support.processes import find_descendants

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def list_process_tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    return [pid, *find_descendants(pid)]


class Meter:
    """Measures the CPU time of parts, from its making on.

    parts: the processes of each as they are now. Those that end must be children of others in their part.
    """

    def __init__(self, parts: Mapping[str, Callable[[], Iterable[int]]]) -> None:
        self._parts = parts
        self._before = self._read()

    def read_s(self) -> dict[str, float]:
        """Return the seconds that each part has used since."""
        return {name: now - self._before[name] for name, now in self._read().items()}

    def _read(self) -> dict[str, float]:
        return {name: sum(map(read_cpu_s, pids())) for name, pids in self._parts.items()}


def read_cpu_s(pid: int) -> float:
    """Return the CPU time that a process and its children that ended have used, in seconds; 0 if it is gone.

    The scheduler tells it in ns: ticks of 10 ms are too coarse for a server that needs 20 µs a delivery. Of
    children that ended (PostgreSQL's connections) only ticks are left.
    Source: proc(5); the kernel's Documentation/scheduler/sched-stats.rst.
    """
    process = Path(f"/proc/{pid}")
    # A process's own schedstat tells of its first thread alone.
    own_ns = sum(int((_read(file) or "0").split()[0]) for file in process.glob("task/*/schedstat"))
    # The file's 16th and 17th fields, cutime and cstime; the first two end with the command's bracket.
    ended = _read(process / "stat").rpartition(")")[2].split()[13:15]
    return own_ns / 1e9 + sum(map(int, ended)) / _TICKS_PER_S


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
