"""What one call to the store costs: its time, and what the server did, which other load hardly changes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import text

from app.database.engine import Database

Result = TypeVar("Result")

# Counted where the session's own counters have arrived: at the end of the transaction, if so told.
_FLUSH = text("SELECT pg_stat_force_next_flush()")
_BUFFERS = text(
    "SELECT pg_backend_pid(), pg_stat_get_db_blocks_fetched(oid) FROM pg_database "
    "WHERE datname = current_database()"
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one call. elapsed_us: as its caller sees it. cpu_us: of the server. buffers: pages it looked at."""

    elapsed_us: float
    cpu_us: float
    buffers: float


class Probe:
    """Measures calls that use the store's only connection in turn, while nobody else uses its database."""

    def __init__(self, store: Database) -> None:
        self._store = store
        self._of_itself = 0.0
        self._of_itself = min(self.measure(lambda: None)[1].buffers for _ in range(9))

    def measure(self, call: Callable[[], Result]) -> tuple[Result, Cost]:
        """Return what the call returns, and what it cost."""
        pid, buffers = self._count()
        cpu_ns, began = _cpu_ns(pid), time.perf_counter()
        result = call()
        elapsed_us = (time.perf_counter() - began) * 1e6
        cpu_us = (_cpu_ns(pid) - cpu_ns) / 1e3
        again, buffers_now = self._count()
        assert pid == again, "the store has changed its connection"
        return result, Cost(elapsed_us, cpu_us, buffers_now - buffers - self._of_itself)

    def _count(self) -> tuple[int, int]:
        with self._store.engine.connect() as connection:
            connection.execute(_FLUSH)
        with self._store.engine.connect() as connection:
            row = connection.execute(_BUFFERS).one()
            return int(row[0]), int(row[1])


def _cpu_ns(pid: int) -> int:
    # Exact while the process waits, as between two calls.
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
