"""What was measured of the store's operations, and the table of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Literal

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


def medians(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return a row for each situation, operation and size, as results are saved."""
    costs: dict[tuple[Situation, str, int], list[Cost]] = {}
    for sample in samples:
        costs.setdefault((sample.situation, sample.operation, sample.size), []).append(sample.cost)
    return [
        {
            "situation": situation,
            "operation": operation,
            "size": size,
            "us": median(cost.elapsed_us for cost in of_one),
            "cpu_us": median(cost.cpu_us for cost in of_one),
            "buffers": median(cost.buffers for cost in of_one),
        }
        for (situation, operation, size), of_one in costs.items()
    ]


def print_table(samples: Sequence[Sample], situation: Situation) -> None:
    """Print medians with half the distance of their quartiles, and how the largest size compares."""
    own = [sample for sample in samples if sample.situation == situation]
    sizes = sorted({sample.size for sample in own})
    print(f"\n{situation}: µs for a delivery, or a call\n")
    print("| | " + " | ".join(f"{size:,}" for size in sizes) + " | ratio | CPU µs | ratio | pages | ratio |")
    print("|---|" + "--:|" * (len(sizes) + 5))
    for operation in dict.fromkeys(sample.operation for sample in own):
        costs = [[s.cost for s in own if (s.operation, s.size) == (operation, size)] for size in sizes]
        times = [[cost.elapsed_us for cost in of_size] for of_size in costs]
        row = [_shown(of_size) for of_size in times] + [_ratio(times[0], times[-1])]
        for kind in ("cpu_us", "buffers"):
            least, most = ([float(getattr(cost, kind)) for cost in costs[index]] for index in (0, -1))
            row += [f"{median(least):,.1f} → {median(most):,.1f}", _ratio(least, most)]
        print(f"| {operation} | " + " | ".join(row) + " |", flush=True)


def _shown(times_us: Sequence[float]) -> str:
    if len(times_us) < 4:
        return f"{median(times_us):,.0f}"
    low, middle, high = quantiles(times_us, n=4)
    return f"{middle:,.0f} ±{(high - low) / 2 / middle:.0%}"


def _ratio(least: Sequence[float], most: Sequence[float]) -> str:
    if not median(least):
        return "-"
    ratio = median(most) / median(least)
    return f"{ratio:.2f}" if abs(ratio - 1) <= TOLERANCE else f"**{ratio:.2f}**"
