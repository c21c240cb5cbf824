"""Runs and their reconciliations as lines of text and as JSON."""

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from app.cli.common.messages import LINE_WIDTH
from app.cli.common.output import format_time, replace_control_chars
from app.cli.common.tables import format_table
from app.runs.gap_reasons import explain_gap, list_remarks
from app.runs.reconciliation import GapReason, Reconciliation
from app.runs.unsent_events import explain_unsent_events
from app.store.runs import StoredRun

_LABEL_WIDTH = 12
_COLOURS = {"complete": "green", "incomplete": "red", "unknown": "yellow", "not_sent": "yellow"}
# The failed deliveries of these gaps have a cause that `dead list` shows.
_DEAD_LIST_CODES = ("dead", "no_account", "unattributed")
_HEADERS = ("resource", "method", "fetched", "arrived", "written", "dead", "missing", "errors")


def format_verdict(reconciliation: Reconciliation) -> str:
    """Return the verdict, coloured on a terminal."""
    return click.style(name_verdict(reconciliation.verdict), fg=_COLOURS.get(reconciliation.verdict))


def name_verdict(verdict: str) -> str:
    """Return a verdict as text has it: "not sent" for `not_sent`."""
    return verdict.replace("_", " ")


def format_status(run: StoredRun) -> str:
    """Return a run's status, "unknown" without one."""
    return replace_control_chars(run.status) or "unknown"


def run_lines(run: StoredRun, reconciliation: Reconciliation) -> Iterator[str]:
    """Yield the lines that describe a run and its resources."""
    title = click.style(f"run {replace_control_chars(run.sync_job_run_id)}", bold=True)
    yield f"{title}  {format_status(run)}, {format_verdict(reconciliation)}"
    fields = {
        "job": replace_control_chars(run.sync_job_id),
        "account": replace_control_chars(run.integrated_account_id),
        "webhook": replace_control_chars(run.webhook_id),
        "seen": f"{format_time(run.first_seen_at)} to {format_time(run.last_seen_at)} UTC",
        "reconciled": f"{format_time(run.reconciled_at)} UTC" if run.reconciled_at else "",
        "refused": replace_control_chars(run.refusal_reason),
        "stop": _format_stop(run),
        "not sent": explain_unsent_events(run, reconciliation.unsent_events),
    }
    yield from (f"  {name:{_LABEL_WIDTH}}{value}" for name, value in fields.items() if value)
    yield from resource_lines(reconciliation)


def resource_lines(reconciliation: Reconciliation) -> Iterator[str]:
    """Yield the table of a run's resources, and a line for every gap."""
    rows = [
        (
            replace_control_chars(counts.resource) or "(none)",
            replace_control_chars(counts.method),
            counts.fetched,
            counts.arrived,
            counts.written,
            counts.dead,
            counts.missing,
            counts.errors,
        )
        for counts in reconciliation.resources
    ]
    if rows:
        yield from format_table(_HEADERS, rows, indent=2)
    for counts in reconciliation.resources:
        name = replace_control_chars(f"{counts.resource or '(none)'} {counts.method}")
        for remark in (*map(_format_gap, counts.gap_reasons), *list_remarks(counts)):
            yield from textwrap.wrap(
                f"{name}: {remark}", LINE_WIDTH, initial_indent="  ", subsequent_indent="    "
            )


def run_as_json(run: StoredRun, reconciliation: Reconciliation) -> dict[str, Any]:
    """Return a run and its reconciliation as `--json` prints them."""
    return {
        "sync_job_run_id": run.sync_job_run_id,
        "sync_job_id": run.sync_job_id,
        "integrated_account_id": run.integrated_account_id,
        "environment_id": run.environment_id,
        "webhook_id": run.webhook_id,
        "status": run.status or None,
        "verdict": reconciliation.verdict,
        "not_sent": reconciliation.unsent_events,
        "has_gaps": reconciliation.has_gaps,
        "refused": run.refusal_reason or None,
        "stop_reason": run.stop_reason or None,
        "first_seen_at": run.first_seen_at,
        "last_seen_at": run.last_seen_at,
        "stopped_at": run.stopped_at,
        "reconciled_at": run.reconciled_at,
        "record_errors": reconciliation.record_errors,
        "resources": [asdict(counts) for counts in reconciliation.resources],
    }


def _format_gap(gap: GapReason) -> str:
    hint = "; see `rapidbridge dead list`" if gap.code in _DEAD_LIST_CODES else ""
    return explain_gap(gap) + hint


def _format_stop(run: StoredRun) -> str:
    if not run.stop_reason:
        return ""
    sent = (
        f"Truto accepted it at {format_time(run.stop_sent_at)} UTC"
        if run.stop_sent_at
        else "Truto has not accepted it"
    )
    return f"{replace_control_chars(run.stop_reason)}; {sent}"
