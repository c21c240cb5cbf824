"""What was measured of the store's operations, and the table of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Literal

from benchmarks.probe import Cost

Situation = Literal["history", "surprise", "unvacuumed", "backlog"]
# What is called flat.
TOLERANCE = 0.2


@dataclass(frozen=True, slots=True)
class Sample:
    """What a call cost, divided by the deliveries it was for."""

    situation: Situation
    size: int
    operation: str
    cost: Cost


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians of the samples of one operation; of its time, the quartiles too."""

    situation: Situation
    size: int
    operation: str
    samples: int
    low_us: float
    elapsed_us: float
    high_us: float
    cpu_us: float
    buffers: float


def summarize_samples(samples: Sequence[Sample]) -> list[Summary]:
    """Return a summary for each operation, in the order in which they were measured."""
    costs: dict[tuple[Situation, int, str], list[Cost]] = {}
    for sample in samples:
        costs.setdefault((sample.situation, sample.size, sample.operation), []).append(sample.cost)
    return [_summary(*place, of_place) for place, of_place in costs.items()]


def print_table(summaries: Sequence[Summary], situation: Situation) -> None:
    """Print medians with half the distance of their quartiles, and how the largest size compares."""
    own = [summary for summary in summaries if summary.situation == situation]
    sizes = sorted({summary.size for summary in own})
    print(f"\n{situation}: µs for a delivery, or a call\n")
    print("| | " + " | ".join(f"{size:,}" for size in sizes) + " | ratio | CPU µs | ratio | pages | ratio |")
    print("|---|" + "--:|" * (len(sizes) + 5))
    for operation in dict.fromkeys(summary.operation for summary in own):
        line = sorted((s for s in own if s.operation == operation), key=lambda summary: summary.size)
        least, most = line[0], line[-1]
        cells = [*map(_shown, line), _ratio(least.elapsed_us, most.elapsed_us)]
        cells += [f"{least.cpu_us:,.1f} → {most.cpu_us:,.1f}", _ratio(least.cpu_us, most.cpu_us)]
        cells += [f"{least.buffers:,.1f} → {most.buffers:,.1f}", _ratio(least.buffers, most.buffers)]
        print(f"| {operation} | " + " | ".join(cells) + " |")


def _summary(situation: Situation, size: int, operation: str, costs: Sequence[Cost]) -> Summary:
    times = [cost.elapsed_us for cost in costs]
    low, middle, high = quantiles(times, n=4) if len(times) > 1 else times * 3
    cpu_us, buffers = median(cost.cpu_us for cost in costs), median(cost.buffers for cost in costs)
    return Summary(situation, size, operation, len(costs), low, middle, high, cpu_us, buffers)


def _shown(summary: Summary) -> str:
    spread = (summary.high_us - summary.low_us) / 2 / summary.elapsed_us
    return f"{summary.elapsed_us:,.0f}" + (f" ±{spread:.0%}" if summary.samples > 1 else "")


def _ratio(least: float, most: float) -> str:
    if not least:
        return "-"
    ratio = most / least
    return f"{ratio:.2f}" if abs(ratio - 1) <= TOLERANCE else f"**{ratio:.2f}**"
