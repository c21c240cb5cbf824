"""How a run is told: to a person, and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from app.cli.common.output import printable
from app.cli.common.tables import table_lines
from app.runs.reconciliation import Account, Cause, Line
from app.store.runs import KnownRun

_COLOURS = {"complete": "green", "incomplete": "red", "unknown": "yellow"}
_CAUSES = {
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
_HEAD = ("resource", "method", "fetched", "arrived", "written", "dead", "missing", "errors")


def verdict_of(account: Account) -> str:
    """Return the verdict, in colour where there is a terminal."""
    return click.style(account.verdict, fg=_COLOURS.get(account.verdict))


def status_of(run: KnownRun) -> str:
    """Return a run's status as it is shown."""
    return printable(run.status) or "unknown"


def resource_lines(account: Account) -> Iterator[str]:
    """Yield the table of a run's resources, and why what is missing is missing."""
    rows = [
        (
            printable(line.resource) or "(none)",
            printable(line.method),
            line.fetched,
            line.arrived,
            line.written,
            line.dead,
            line.missing,
            line.errors,
        )
        for line in account.lines
    ]
    if rows:
        yield from table_lines(_HEAD, rows, indent=2)
    for line in account.lines:
        yield from (f"  {_place(line)}: {_explain(cause)}" for cause in line.causes)
        if line.surplus:
            yield f"  {_place(line)}: {line.surplus:,} more arrived than Truto counted"
        if line.late:
            yield f"  {_place(line)}: {line.late:,} arrived after the run had been stopped"
        if line.dropped:
            yield f"  {_place(line)}: {line.dropped:,} are sent nowhere, as their route says"
        if len(line.sinks) > 1:
            written = ", ".join(f"{sink.sink} {sink.written:,}" for sink in sorted(line.sinks, key=_name))
            yield f"  {_place(line)}: written by sink: {written}"


def as_json(run: KnownRun, account: Account) -> dict[str, Any]:
    """Return a run and its account as `--json` prints them."""
    return {
        "sync_job_run_id": run.sync_job_run_id,
        "sync_job_id": run.sync_job_id,
        "integrated_account_id": run.integrated_account_id,
        "environment_id": run.environment_id,
        "webhook_id": run.webhook_id,
        "status": run.status or None,
        "verdict": account.verdict,
        "is_bad_news": account.is_bad_news,
        "refused": run.refused or None,
        "stop_cause": run.stop_cause or None,
        "first_seen_at": _iso(run.first_seen_at),
        "last_seen_at": _iso(run.last_seen_at),
        "stopped_at": _iso(run.stopped_at),
        "settled_at": _iso(run.settled_at),
        "record_errors": account.record_errors,
        "resources": [asdict(line) for line in account.lines],
    }


def _explain(cause: Cause) -> str:
    number = "an unknown number" if cause.records is None else f"{cause.records:,}"
    return f"{number} {_CAUSES[cause.word]}"


def _place(line: Line) -> str:
    return printable(f"{line.resource or '(none)'} {line.method}")


def _name(sink: Any) -> str:
    return str(sink.sink)


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
