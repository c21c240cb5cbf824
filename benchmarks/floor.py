"""The floor: the cost of a delivery that no receiver in this stack can avoid, in µs of all cores.

It is the sum of parts that are measured in the same run as the receiver, each alone:

- the bare view under the same load. It takes all cores, so that its cost is their number divided by its
  rate. This includes the sender and the kernel.
- the work on the bytes of a body: HMAC, one look by msgspec, which checks all of them and builds one text,
  and compression. CPU time of a loop over more bodies than a core's cache holds.
- the database's own insert of a row with an id and the compressed body, on one connection, in groups of the
  size that the receiver had. CPU time of PostgreSQL and of the driver; the wait for the disk takes no core.

Not included, although every receiver needs some of it: the rest of the envelope, log line, metrics, queue,
duplicates and the hand-over to a group. Code and data are in the caches of a loop, and rarely in those of a
server: the floor is a lower bound.
"""

import hmac
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import httpx
import msgspec
import psycopg

from app.store.compression import compress
from benchmarks.round import CpuMeter, list_process_tree
from tests.support.web_process import SECRET

_CREATE = "CREATE TABLE IF NOT EXISTS floor_rows (id uuid PRIMARY KEY, body bytea)"
# As in the inbox: PostgreSQL must not try to compress again.
_SET_STORAGE = "ALTER TABLE floor_rows ALTER COLUMN body SET STORAGE EXTERNAL"
_INSERT = "INSERT INTO floor_rows SELECT * FROM unnest(%b::uuid[], %b::bytea[])"
_GROUP_SIZE = re.compile(r"^rapidbridge_commit_group_size_(sum|count) (\S+)$", re.MULTILINE)
# The largest group.
_BODIES = 64


class _Event(msgspec.Struct):
    event: str


_decoder = msgspec.json.Decoder(_Event)


def _compute_macs(bodies: Sequence[bytes]) -> None:
    for body in bodies:
        hmac.digest(SECRET.encode(), body, "sha256")


def _look(bodies: Sequence[bytes]) -> None:
    for body in bodies:
        _decoder.decode(body)


_BYTES_STEPS: Mapping[str, Callable[[Sequence[bytes]], object]] = {
    "HMAC": _compute_macs,
    "one look": _look,
    "compression": compress,
}


@dataclass(frozen=True, slots=True)
class Floor:
    """The parts of the floor by name, in µs. group_size: deliveries in a commit of the receiver."""

    parts_us: Mapping[str, float]
    group_size: float

    @property
    def per_s(self) -> float:
        """The deliveries a second of a receiver at the floor."""
        return _all_cores_us(sum(self.parts_us.values()))

    def as_row(self) -> dict[str, float]:
        """Return a flat row, to be saved."""
        parts = {f"{name}_us": round(part_us, 1) for name, part_us in self.parts_us.items()}
        return {"per_s": self.per_s, **parts, "group_size": round(self.group_size, 1)}

    def describe_share(self, own_per_s: float) -> str:
        """Return the floor, and the share of it that a receiver with this rate reaches, as sentences."""
        parts = ", ".join(f"{name} {part_us:,.0f}" for name, part_us in self.parts_us.items())
        return (
            f"\nThe floor is {sum(self.parts_us.values()):,.0f} µs of all cores a delivery, "
            f"{self.per_s:,.0f}/s: {parts} in groups of {self.group_size:.1f}. The receiver on PostgreSQL "
            f"takes {_all_cores_us(own_per_s):,.0f} µs: {own_per_s / self.per_s:.0%} of the floor's rate."
        )


class GroupSizeMeter:
    """Measures the mean number of deliveries in a commit, from its construction on."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._before = self._read()

    def read(self) -> float:
        """Return the mean; 1 if there was no commit."""
        sums = self._read()
        commits = sums["count"] - self._before["count"]
        return (sums["sum"] - self._before["sum"]) / commits if commits else 1.0

    def _read(self) -> dict[str, float]:
        metrics = httpx.get(self._url, timeout=10).raise_for_status().text
        return {name: float(value) for name, value in _GROUP_SIZE.findall(metrics)}


def measure_parts_us(
    database_url: str, postgres_pid: int, bodies: Iterable[bytes], *, group_size: float, seconds: float
) -> dict[str, float]:
    """Return the CPU time of each part but the bare view for one delivery, in µs. seconds: for all parts."""
    distinct = list(itertools.islice(bodies, _BODIES))
    part_s = seconds / (len(_BYTES_STEPS) + 1)
    parts_us = {name: _measure_step_us(step, distinct, part_s) for name, step in _BYTES_STEPS.items()}
    group = compress(distinct)[: max(1, round(group_size))]
    return {**parts_us, "insert": _measure_insert_us(database_url, postgres_pid, group, part_s)}


def _measure_step_us(
    step: Callable[[Sequence[bytes]], object], bodies: Sequence[bytes], seconds: float
) -> float:
    passes, began_s = 0, time.process_time()
    while not passes or time.process_time() - began_s < seconds:
        step(bodies)
        passes += 1
    return (time.process_time() - began_s) / passes / len(bodies) * 1e6


def _measure_insert_us(database_url: str, postgres_pid: int, group: list[bytes], seconds: float) -> float:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_CREATE)
        connection.execute(_SET_STORAGE)
        meter = CpuMeter({"postgres": partial(list_process_tree, postgres_pid)})
        # Ids that grow with time, as those of events.
        numbers = itertools.count(time.time_ns())
        rows, began_s = 0, time.process_time()
        deadline = time.perf_counter() + seconds
        while not rows or time.perf_counter() < deadline:
            connection.execute(_INSERT, ([UUID(int=next(numbers)) for _ in group], group))
            rows += len(group)
        cpu_s = time.process_time() - began_s + meter.read_s()["postgres"]
        connection.execute("TRUNCATE floor_rows")
    return cpu_s / rows * 1e6


def _all_cores_us(per_s: float) -> float:
    """Return the time of all cores for one delivery, in µs; or the deliveries a second for such a time."""
    return 1e6 * (os.cpu_count() or 1) / per_s


def build_floor(bare_per_s: float, parts_us: Mapping[str, float], group_size: float) -> Floor:
    """Return the floor. parts_us: all but the bare view."""
    return Floor({"bare view": _all_cores_us(bare_per_s), **parts_us}, group_size)
