"""The stand-in's sync job runs: looked at, listed, started and stopped while they play."""

from collections.abc import Mapping
from typing import Any

from app.simulator.api_endpoints import ApiRequest, ApiResponse, paginate_items
from app.simulator.run import SimulatedRun
from app.simulator.session import SimulationSession

_FILTERS = ("status", "sync_job_id", "integrated_account_id")
_RUN_OPTIONS = ("args", "ignore_previous_run")


def handle_run_request(session: SimulationSession, request: ApiRequest) -> ApiResponse:
    """Answer what is asked about runs."""
    match (request.method, request.id):
        case ("GET", ""):
            return _list_runs(session, request.query)
        case ("POST", ""):
            return _start_run(session, request.body)
        case ("GET" | "DELETE", id_) if run := _find_run(session, id_):
            if request.method == "DELETE":
                run.stop()
            return 200, run.describe()
    return 404, {"message": "Sync job run not found"}


def _find_run(session: SimulationSession, run_id: str) -> SimulatedRun | None:
    return next((run for run in session.runs if run.report.sync_job_run_id == run_id), None)


def _list_runs(session: SimulationSession, query: Mapping[str, str]) -> ApiResponse:
    wanted = {name: query[name] for name in _FILTERS if name in query}
    run_objects = [run.describe() for run in session.runs]
    matching_runs = [run for run in run_objects if all(run[name] == value for name, value in wanted.items())]
    return paginate_items(matching_runs, query, list_name="results")


def _start_run(session: SimulationSession, body: Mapping[str, Any]) -> ApiResponse:
    job, account = body.get("sync_job_id"), body.get("integrated_account_id")
    if not (isinstance(job, str) and isinstance(account, str) and account):
        return 422, {"message": "sync_job_id and integrated_account_id are required"}
    if job not in {run.report.sync_job_id for run in session.runs}:
        return 404, {"message": "Sync job not found"}
    options = {name: body[name] for name in _RUN_OPTIONS if name in body}
    return 200, session.start(account=account, start_options=options).describe()
