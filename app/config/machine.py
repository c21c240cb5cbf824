"""Cores and memory of this machine, and default numbers of processes."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Enough for a process and a few large bodies. Heroku reckons with the same number.
_PROCESS_BYTES = 256 * 2**20
# Each web process may open ten connections to the database, and PostgreSQL allows 100 by default.
_MAX_DEFAULT = 4


@dataclass(frozen=True, slots=True)
class Machine:
    """The cores and the memory that this process may use: the limits of its container count."""

    cores: int
    memory_bytes: int

    def compute_web_concurrency(self) -> int:
        """Return the default of WEB_CONCURRENCY: one for each core, and two, so that one may restart."""
        return self._limit(max(2, self.cores))

    def compute_worker_concurrency(self) -> int:
        """Return the default of WORKER_CONCURRENCY: half the cores, as the other half may run the rest."""
        return self._limit(self.cores // 2)

    def _limit(self, number: int) -> int:
        return max(1, min(number, _MAX_DEFAULT, self.memory_bytes // _PROCESS_BYTES))


@cache
def get_machine() -> Machine:
    """Return the cores and the memory of this machine, read once."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        # Only Linux binds processes to cores.
        cores = os.cpu_count() or 1
    return read_machine(cores, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def read_machine(cores: int, memory_bytes: int, root: Path = Path("/")) -> Machine:
    """Return the cores and the memory, reduced to the limits of this process's control groups.

    cores, memory_bytes: of the whole machine. root: where /proc and /sys lie.
    """
    for folder in _list_groups(root):
        memory_bytes = min([memory_bytes, *_read_numbers(folder, "memory.max", "memory.limit_in_bytes")])
        quota = _read_numbers(folder, "cpu.max", "cpu.cfs_quota_us")
        period = _read_numbers(folder, "cpu.cfs_period_us")
        if len(numbers := [*quota, *period]) == 2 and min(numbers) > 0:
            # Half a core still runs a process.
            cores = min(cores, -(-numbers[0] // numbers[1]))
    return Machine(max(1, cores), memory_bytes)


def _list_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of the groups above them."""
    groups = root / "sys/fs/cgroup"
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    for line in lines:
        # Version 2 has one hierarchy without a name, version 1 one for each controller.
        _, controllers, path = line.split(":", 2)
        top = groups / controllers
        folder = top / path.lstrip("/")
        # A container sees its own group as the top, whatever its path on the host is.
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(top))


def _read_numbers(folder: Path, *names: str) -> list[int]:
    """Return the numbers in the first of these files that exists; "max" is none."""
    for name in names:
        with suppress(OSError):
            return [int(word) for word in (folder / name).read_text().split() if word.isdecimal()]
    return []
