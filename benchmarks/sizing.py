"""From CPU time a delivery to what so many cores carry: the arithmetic of more machines. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

CORES = (1, 2, 4, 8)
# It runs commands on one thread, however many cores there are.
_SINGLE_THREADED = "Valkey"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement: so many processes dealt with deliveries of so many records for so long.

    cpu_s: what each part used meanwhile.
    """

    processes: int
    records: int
    deliveries: int
    seconds: float
    cpu_s: Mapping[str, float]

    @property
    def per_s(self) -> float:
        """Deliveries a second."""
        return self.deliveries / self.seconds

    def part_us(self, part: str) -> float:
        """Return a part's CPU time for one delivery, in µs."""
        return self.cpu_s[part] / self.deliveries * 1e6

    def as_row(self, step: str) -> dict[str, Any]:
        """Return it flat, to be saved."""
        costs = {f"{part}_us": round(self.part_us(part), 1) for part in self.cpu_s}
        shape = {"step": step, "processes": self.processes, "records": self.records}
        return {**shape, "deliveries": self.deliveries, "deliveries_per_s": round(self.per_s, 1), **costs}


def cost_us(turns: Sequence[Measurement], part: str) -> float:
    """Return a part's CPU time for one record, in µs: the median, of the number of processes that is dearest.

    With more processes fewer deliveries share a commit and a job.
    """
    numbers = {turn.processes for turn in turns}
    return max(
        median(turn.part_us(part) / turn.records for turn in turns if turn.processes == number)
        for number in numbers
    )


def render_capacity(accepting: Sequence[Measurement], draining: Sequence[Measurement]) -> Iterator[str]:
    """Tell what cores carry: a table, and which part is at its end first."""
    web, worker = cost_us(accepting, "web"), cost_us(draining, "worker") + cost_us(draining, "supervisor")
    shared = {
        name: (cost_us(accepting, name), cost_us(draining, name)) for name in ("PostgreSQL", _SINGLE_THREADED)
    }
    yield "| cores of | µs a record | " + " | ".join(f"{cores} carry" for cores in CORES) + " |"
    yield "|---|--:|" + "--:|" * len(CORES)
    yield _row("web", web, accepting[0].records)
    yield _row("worker", worker, draining[0].records)
    for name, (taking, giving) in shared.items():
        max_cores = 1 if name == _SINGLE_THREADED else CORES[-1]
        yield _row(f"{name}, for web alone", taking, accepting[0].records, max_cores)
        yield _row(f"{name}, for worker alone", giving, draining[0].records, max_cores)
        yield _row(f"{name}, for both", taking + giving, draining[0].records, max_cores)
    postgres, valkey = (sum(costs) for costs in shared.values())
    yield ""
    yield (
        f"Deliveries a second (records a second): of {accepting[0].records} records where web is alone, else "
        f"of {draining[0].records}. One core of PostgreSQL keeps up with {web / postgres:.1f} cores of web "
        f"and {worker / postgres:.1f} of worker, Valkey's one with {postgres / valkey:.1f} of PostgreSQL."
    )


def _row(name: str, us_a_record: float, records: int, most_cores: int = CORES[-1]) -> str:
    cells = []
    for cores in CORES:
        per_s = cores * 1e6 / us_a_record
        cells.append(f"{per_s / records:,.0f} ({per_s:,.0f})" if cores <= most_cores else "-")
    return f"| {name} | {us_a_record:.1f} | {' | '.join(cells)} |"
