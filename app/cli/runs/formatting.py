"""How a run is told: to a person, and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from app.cli.common.output import replace_control_chars
from app.cli.common.tables import format_table
from app.runs.reconciliation import GapReason, Reconciliation, ResourceCounts
from app.store.runs import StoredRun

_COLOURS = {"complete": "green", "incomplete": "red", "unknown": "yellow"}
_GAP_EXPLANATIONS = {
    "given_up": "missing: Truto gave their pages up, having got no 200 for them",
    "dead": "dead: no sink could hold them; they are kept in rapidbridge_dead_records",
    "discarded": "discarded: an operator gave them up; they are kept in the inbox",
    "unrouted": "unrouted: no route takes them; they are kept in the inbox",
    "late": "late: they came after the stop and are kept in the inbox (LATE_RECORDS=keep)",
    "quarantined": "missing: a page of them could not be read; it is kept in the inbox",
    "stopped": "missing: the run was stopped before they were sent",
    "refused": "missing: the run had been refused",
    "unexplained": "missing: neither the inbox nor what is known of Truto's log says why",
}
_HEADERS = ("resource", "method", "fetched", "arrived", "written", "dead", "missing", "errors")


def format_verdict(reconciliation: Reconciliation) -> str:
    """Return the verdict, in colour where there is a terminal."""
    return click.style(reconciliation.verdict, fg=_COLOURS.get(reconciliation.verdict))


def format_status(run: StoredRun) -> str:
    """Return a run's status as it is shown."""
    return replace_control_chars(run.status) or "unknown"


def resource_lines(reconciliation: Reconciliation) -> Iterator[str]:
    """Yield the table of a run's resources, and why what is missing is missing."""
    rows = [
        (
            replace_control_chars(line.resource) or "(none)",
            replace_control_chars(line.method),
            line.fetched,
            line.arrived,
            line.written,
            line.dead,
            line.missing,
            line.errors,
        )
        for line in reconciliation.resources
    ]
    if rows:
        yield from format_table(_HEADERS, rows, indent=2)
    for line in reconciliation.resources:
        yield from (f"  {_format_resource(line)}: {_explain_gap(gap)}" for gap in line.gap_reasons)
        if line.surplus:
            yield f"  {_format_resource(line)}: {line.surplus:,} more arrived than Truto counted"
        if line.late:
            yield f"  {_format_resource(line)}: {line.late:,} arrived after the run had been stopped"
        if line.dropped:
            yield f"  {_format_resource(line)}: {line.dropped:,} are sent nowhere, as their route says"
        if len(line.sinks) > 1:
            written = ", ".join(
                f"{sink.sink} {sink.written:,}" for sink in sorted(line.sinks, key=_sink_name)
            )
            yield f"  {_format_resource(line)}: written by sink: {written}"


def run_as_json(run: StoredRun, reconciliation: Reconciliation) -> dict[str, Any]:
    """Return a run and its account as `--json` prints them."""
    return {
        "sync_job_run_id": run.sync_job_run_id,
        "sync_job_id": run.sync_job_id,
        "integrated_account_id": run.integrated_account_id,
        "environment_id": run.environment_id,
        "webhook_id": run.webhook_id,
        "status": run.status or None,
        "verdict": reconciliation.verdict,
        "is_bad_news": reconciliation.has_gaps,
        "refused": run.refusal_reason or None,
        "stop_reason": run.stop_reason or None,
        "first_seen_at": _format_iso(run.first_seen_at),
        "last_seen_at": _format_iso(run.last_seen_at),
        "stopped_at": _format_iso(run.stopped_at),
        "settled_at": _format_iso(run.reconciled_at),
        "record_errors": reconciliation.record_errors,
        "resources": [asdict(line) for line in reconciliation.resources],
    }


def _explain_gap(gap: GapReason) -> str:
    number = "an unknown number" if gap.records is None else f"{gap.records:,}"
    return f"{number} {_GAP_EXPLANATIONS[gap.code]}"


def _format_resource(line: ResourceCounts) -> str:
    return replace_control_chars(f"{line.resource or '(none)'} {line.method}")


def _sink_name(sink: Any) -> str:
    return str(sink.sink)


def _format_iso(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
