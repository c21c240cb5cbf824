"""Slots of gunicorn's worker processes, each with files of metrics.

prometheus_client names the files by process id: they pile up with each restart. Here they are named by the
slot of the process. The next process in a slot continues its files, so counters never go backwards.

Loaded by gunicorn's master before gevent patches anything: imports nothing heavy.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_PREFIX = "rapidbridge-metrics-"
_LOCK_NAME = "lock"
# prometheus_client's types of values, in its names of files, and its initial size of a file.
_TYPES = ("counter", "histogram")
_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """The place of a worker process. folder: with the files of all slots."""

    number: int
    folder: Path


class WorkerSlots:
    """The slots of the workers of one gunicorn, kept by its master.

    current: the slot that was assigned last, which is a worker's own after its fork; None without files.
    """

    def __init__(self) -> None:
        self.current: WorkerSlot | None = None
        self._folder: Path | None = None
        self._lock: IO[str] | None = None
        self._workers: dict[int, Hashable] = {}

    def open(self, parent: Path) -> None:
        """Create the folder in a folder in memory, and remove those of masters that were killed.

        Without space or permission, each process keeps its metrics for itself.
        """
        with suppress(OSError):
            _remove_abandoned(parent)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            # Inherited by the workers: the folder is in use while one of them lives.
            self._lock = (folder / _LOCK_NAME).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._folder = folder

    def assign(self, worker: Hashable) -> None:
        """Give the next worker process the lowest free slot; call it before the fork."""
        self.current = None
        if self._folder is None:
            return
        number = next(number for number in range(len(self._workers) + 1) if number not in self._workers)
        try:
            for type_ in _TYPES:
                _reserve(self._folder / f"{type_}_{number}.db")
        except OSError:
            return
        self._workers[number] = worker
        self.current = WorkerSlot(number, self._folder)

    def release(self, worker: Hashable) -> None:
        """Free the slot of a worker process that has ended."""
        for number, owner in list(self._workers.items()):
            if owner is worker:
                del self._workers[number]

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _reserve(file: Path) -> None:
    """Create a file with all of its memory: a process that fills a hole in a full one would be killed."""
    if file.exists():
        return
    try:
        file.write_bytes(bytes(_FILE_BYTES))
    except OSError:
        file.unlink(missing_ok=True)
        raise


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of this user whose master and workers have ended."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), (folder / _LOCK_NAME).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


worker_slots = WorkerSlots()
