"""The report of a soak as Markdown tables."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median

from tests.chaos.soak import SoakReport
from tests.chaos.watch import Recovery

_FAULTS = (
    "lost",
    "doubled",
    "regressed",
    "astray",
    "unsettled",
    "dead",
    "miscounted",
    "garbled",
    "foreign",
    "released",
    "stuck",
    "leaked",
)


def render_report(report: SoakReport) -> str:
    """Return the tables and the examples of faults."""
    counts, faults = report.audit_result.counts, report.audit_result.faults
    lines = ["| counted | number |", "|---|--:|"]
    lines += [f"| {name} | {number:,} |" for name, number in counts.items()]
    lines += [f"| **{name}** | **{faults[name]:,}** |" for name in _FAULTS]
    lines += [f"| faults injected | {len(report.recoveries)} |"]
    lines += [f"| settled after the last delivery | {report.settled_s:.1f} s |"]
    lines += [f"| ready at the end | {report.readiness_error or 'yes'} |", ""]
    lines += ["| fault | times | recovered after, median | longest |", "|---|--:|--:|--:|"]
    lines += _render_recoveries(report.recoveries)
    return "\n".join([*lines, "", *report.audit_result.examples])


def _render_recoveries(recoveries: Sequence[Recovery]) -> Iterator[str]:
    by_kind = defaultdict(list)
    for recovery in recoveries:
        by_kind[recovery.kind].append(recovery.recovered_s)
    for kind, times in sorted(by_kind.items()):
        known = [time for time in times if time is not None]
        figures = (
            f"{median(known):.1f} s | {max(known):.1f} s" if len(known) == len(times) else "never | never"
        )
        yield f"| {kind} | {len(times)} | {figures} |"
