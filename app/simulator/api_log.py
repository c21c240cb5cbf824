"""The stand-in's log: what became of each page of a run, and of each record error."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from app.simulator.api_requests import Answer, Request, one_page
from app.simulator.events import spell
from app.simulator.run import Run
from app.simulator.session import Stage
from app.truto.coerce import as_time

_LONGEST_RANGE = timedelta(days=31)
_RUN = "log_type_filter[sync_job_run_id]"


def answer_log(stage: Stage, asked: Request) -> Answer:
    """Answer what is asked about the log; like Truto, no more than a month of it."""
    query = asked.query
    if asked.method != "GET" or asked.id:
        return 404, {"message": "Not found"}
    if query.get("log_type") != "rapid_bridge":
        return 422, {"message": "log_type: only rapid_bridge is simulated"}
    if (bounds := _bounds(query)) is None:
        return 422, {"message": "created_at[gt] needs created_at[lt], a month later at most"}
    after, before = bounds
    runs = [run for run in stage.runs if query.get(_RUN) in (None, run.report.sync_job_run_id)]
    found = [entry for run in runs for created_at, entry in _entries(run) if after < created_at < before]
    return one_page(found, query, named="result")


def _bounds(query: Mapping[str, str]) -> tuple[datetime, datetime] | None:
    after, before = (as_time(query.get(f"created_at[{name}]")) for name in ("gt", "lt"))
    if after and (before is None or before - after > _LONGEST_RANGE):
        return None
    return after or datetime.min.replace(tzinfo=UTC), before or datetime.max.replace(tzinfo=UTC)


def _entries(run: Run) -> Iterator[tuple[datetime, Mapping[str, Any]]]:
    told = run.describe()
    ids = {name: told[name] for name in ("sync_job_id", "integrated_account_id", "webhook_id")}
    for line in list(run.log.lines):
        outcome = line.outcome
        yield (
            line.created_at,
            {
                # Filtered by as created_at, told as timestamp.
                "timestamp": spell(line.created_at),
                "sync_job_run_id": told["id"],
                **ids,
                "sync_job_run_event": line.event,
                "resource": line.resource,
                "method": line.method,
                "status": "completed" if outcome.is_delivered else "failed",
                "num_records": line.num_records,
                "webhook_successful": outcome.is_delivered,
                "webhook_status": outcome.http_status or None,
                "retry_count": outcome.retries,
                "logs": [],
            },
        )
