"""Explanations of the verdict and the counts of a run, for people."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from app.plural import format_count
from app.runs.reconciliation import GapReason, ResourceCounts
from app.store.run_summaries import RunSummary

_REFETCH = "refetch the run: a new run with the same arguments fetches all of its records again"

_EXPLANATIONS = {
    "given_up": "missing: Truto dropped their pages after all retries",
    "dead": "dead: sinks reject them",
    "discarded": "discarded by an operator; kept in the inbox",
    "unrouted": "unrouted: no route matches them; kept in the inbox",
    "late": "late: received after the stop; kept (LATE_RECORDS=keep)",
    "no_account": "not written: their account is unknown",
    "quarantined": "missing: their page is unreadable, or killed its workers; kept in the inbox",
    "stopped": "missing: the run was stopped before they were sent",
    "refused": "missing: the run was refused",
    "not_sent": "not sent: the run's events_to_send leaves out records",
    "without_run": "not in this run: as many arrived in batches that name no run",
    "unattributed": "not written: as many arrived in batches that name neither run nor account",
    "held": "held: a sink is paused or fails, and gets them afterwards",
    "unexplained": "missing: no reason in the inbox or in Truto's log",
}


class GapAdvice(NamedTuple):
    """The next step for a gap.

    needs_refetch: the records are not in the inbox, so that only a new run can bring them. is_failure: the
    records are among the failed deliveries and dead records of the run.
    """

    text: str
    needs_refetch: bool = False
    is_failure: bool = False


_ADVICE = {
    "given_up": GapAdvice(_REFETCH, needs_refetch=True),
    "dead": GapAdvice("correct the cause, then replay them", is_failure=True),
    "discarded": GapAdvice("replay their deliveries if they are needed after all"),
    "unrouted": GapAdvice("add a route for their resource, then replay them", is_failure=True),
    "late": GapAdvice("replay their deliveries, or discard them", is_failure=True),
    "no_account": GapAdvice("name the account in the routes file, then replay them", is_failure=True),
    "quarantined": GapAdvice("inspect their delivery and its reason", is_failure=True),
    "stopped": GapAdvice(f"if the stop was a mistake, {_REFETCH}", needs_refetch=True),
    "refused": GapAdvice("start the run again when its policy allows it"),
    "not_sent": GapAdvice("add record to events_to_send of the job, and refetch the run", needs_refetch=True),
    "without_run": GapAdvice("set ATTRIBUTE_TO_OPEN_RUN, so that later batches are attributed to their run"),
    "unattributed": GapAdvice("name the account of the webhook in the routes file, then replay the batches"),
    "held": GapAdvice("repair or resume the sink; workers then write them"),
    "unexplained": GapAdvice(
        "check TRUTO_API_TOKEN with rapidbridge doctor, so that Truto's log is read; else refetch",
        needs_refetch=True,
    ),
}


_VERDICTS: Mapping[str, str] = {
    "complete": "every record that Truto fetched arrived, and is in every sink, dead, or dropped",
    "incomplete": "records are missing, or not in every sink",
    "unknown": "the run has ended; neither its events nor Truto's API have a count: run rapidbridge doctor",
    "settling": "the run has ended; some deliveries are pending, or may still arrive",
    "open": "the run is in progress, or waits for a rate limit",
    "not_sent": "the run does not report its end, and nothing of it has arrived for 2 minutes",
    "refused": "the run was refused at its start, and sent no records",
    "": "no worker has counted the run yet; check that workers run: rapidbridge doctor",
}


def explain_verdict(verdict: str) -> str:
    """Return the meaning of a verdict; of "" for a run without a summary."""
    return _VERDICTS[verdict]


def explain_gap(gap: GapReason) -> str:
    """Return the number of records that a gap keeps out of the sinks, and the reason.

    It names no commands, because pages show it as well as the command line.
    """
    number = "an unknown number" if gap.records is None else f"{gap.records:,}"
    return f"{number} {_EXPLANATIONS[gap.code]}"


def explain_gaps(summary: RunSummary) -> str:
    """Return the largest gap of a run, and the number of the other reasons; "" without gaps."""
    gaps = [GapReason(code, records) for code, records in summary.gap_reasons]
    if not gaps:
        return ""
    others = format_count(len(gaps) - 1, "other reason")
    return explain_gap(gaps[0]) + (f"; {others}" if gaps[1:] else "")


def advise_on_gap(code: str) -> GapAdvice:
    """Return the next step for the gaps with a code."""
    return _ADVICE[code]


def list_remarks(counts: ResourceCounts) -> Iterator[str]:
    """Yield sentences about the counts of a resource that are no gaps."""
    if counts.in_flight:
        yield f"{counts.in_flight:,} not arrived yet; missing if they do not arrive within 2 minutes"
    if counts.surplus:
        yield f"{counts.surplus:,} more arrived than Truto counted"
    if counts.late:
        yield f"{counts.late:,} arrived after the run was stopped"
    if counts.dropped:
        yield f"{format_count(counts.dropped, 'record')} dropped: the route has no sinks"
    if len(counts.sinks) > 1:
        sinks = sorted(counts.sinks, key=lambda sink: str(sink.sink))
        yield "written by sink: " + ", ".join(f"{sink.sink} {sink.written:,}" for sink in sinks)
