"""One turn of a contender: how long it took, and the CPU that each process used meanwhile."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from benchmarks.cpu import Meter, list_process_tree


@dataclass(frozen=True, slots=True)
class Round:
    """What came of it. cpu_s: CPU seconds by whose they are."""

    records: int
    seconds: float
    cpu_s: Mapping[str, float]

    @property
    def per_s(self) -> float:
        """Records a second."""
        return self.records / self.seconds


class RoundTimer:
    """Runs from when it is made. pids: the processes to watch, with their children, by whose they are."""

    def __init__(self, **pids: int) -> None:
        self._meter = Meter({name: partial(list_process_tree, pid) for name, pid in pids.items()})
        self._began = time.perf_counter()

    def stop(self, records: int, **cpu_s: float) -> Round:
        """Return the turn. cpu_s: of processes that measure themselves, or are gone."""
        seconds = time.perf_counter() - self._began
        return Round(records, seconds, self._meter.read_s() | cpu_s)
