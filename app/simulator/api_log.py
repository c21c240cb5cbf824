"""The stand-in's log: what became of each page of a run, and of each record error."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from app.simulator.api_endpoints import ApiRequest, ApiResponse, paginate_items
from app.simulator.event_writer import format_time
from app.simulator.run import SimulatedRun
from app.simulator.session import SimulationSession
from app.truto.coerce import as_time

_MAX_RANGE = timedelta(days=31)
_RUN_FILTER = "log_type_filter[sync_job_run_id]"


def handle_log_request(session: SimulationSession, request: ApiRequest) -> ApiResponse:
    """Answer what is asked about the log; like Truto, no more than a month of it."""
    query = request.query
    if request.method != "GET" or request.id:
        return 404, {"message": "Not found"}
    if query.get("log_type") != "rapid_bridge":
        return 422, {"message": "log_type: only rapid_bridge is simulated"}
    if (bounds := _read_bounds(query)) is None:
        return 422, {"message": "created_at[gt] needs created_at[lt], a month later at most"}
    after, before = bounds
    runs = [run for run in session.runs if query.get(_RUN_FILTER) in (None, run.report.sync_job_run_id)]
    entries = [
        entry for run in runs for created_at, entry in _list_entries(run) if after < created_at < before
    ]
    return paginate_items(entries, query, list_name="result")


def _read_bounds(query: Mapping[str, str]) -> tuple[datetime, datetime] | None:
    after, before = (as_time(query.get(f"created_at[{name}]")) for name in ("gt", "lt"))
    if after and (before is None or before - after > _MAX_RANGE):
        return None
    return after or datetime.min.replace(tzinfo=UTC), before or datetime.max.replace(tzinfo=UTC)


def _list_entries(run: SimulatedRun) -> Iterator[tuple[datetime, Mapping[str, Any]]]:
    run_object = run.describe()
    ids = {name: run_object[name] for name in ("sync_job_id", "integrated_account_id", "webhook_id")}
    for line in list(run.log.entries):
        outcome = line.outcome
        yield (
            line.created_at,
            {
                # Filtered by as created_at, told as timestamp.
                "timestamp": format_time(line.created_at),
                "sync_job_run_id": run_object["id"],
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
