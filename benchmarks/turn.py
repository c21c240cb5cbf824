"""One turn of a contender: how long it took, and the CPU that each process used meanwhile."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.servers.processes import descendants

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of it. cpu_s: CPU seconds by whose they are."""

    records: int
    seconds: float
    cpu_s: Mapping[str, float]

    @property
    def per_s(self) -> float:
        """Records a second."""
        return self.records / self.seconds


class Watch:
    """Runs from when it is made. pids: the processes to watch, with their children, by whose they are."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self._before = {name: _cpu_s(pid) for name, pid in pids.items()}
        self._began = time.perf_counter()

    def stop(self, records: int, **cpu_s: float) -> Turn:
        """Return the turn. cpu_s: of processes that measure themselves, or are gone."""
        seconds = time.perf_counter() - self._began
        used = {name: _cpu_s(pid) - self._before[name] for name, pid in self._pids.items()}
        return Turn(records, seconds, used | cpu_s)


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its children, also of those that ended."""
    return sum(_ticks(one) for one in (pid, *descendants(pid))) / _TICKS_PER_S


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    # In user and kernel mode, then the same of children that ended.
    return sum(map(int, fields[11:15]))
