"""The stand-in's sync job runs: looked at, listed, started and stopped while they play."""

from collections.abc import Mapping
from typing import Any

from app.simulator.api_requests import Answer, Request, one_page
from app.simulator.run import Run
from app.simulator.session import Stage

_FILTERS = ("status", "sync_job_id", "integrated_account_id")
_TOLD = ("args", "ignore_previous_run")


def answer_runs(stage: Stage, asked: Request) -> Answer:
    """Answer what is asked about runs."""
    match (asked.method, asked.id):
        case ("GET", ""):
            return _list(stage, asked.query)
        case ("POST", ""):
            return _start(stage, asked.body)
        case ("GET" | "DELETE", id_) if run := _find(stage, id_):
            if asked.method == "DELETE":
                run.stop()
            return 200, run.describe()
    return 404, {"message": "Sync job run not found"}


def _find(stage: Stage, run_id: str) -> Run | None:
    return next((run for run in stage.runs if run.report.sync_job_run_id == run_id), None)


def _list(stage: Stage, query: Mapping[str, str]) -> Answer:
    wanted = {name: query[name] for name in _FILTERS if name in query}
    told = [run.describe() for run in stage.runs]
    found = [run for run in told if all(run[name] == value for name, value in wanted.items())]
    return one_page(found, query, named="results")


def _start(stage: Stage, body: Mapping[str, Any]) -> Answer:
    job, account = body.get("sync_job_id"), body.get("integrated_account_id")
    if not (isinstance(job, str) and isinstance(account, str) and account):
        return 422, {"message": "sync_job_id and integrated_account_id are required"}
    if job not in {run.report.sync_job_id for run in stage.runs}:
        return 404, {"message": "Sync job not found"}
    told = {name: body[name] for name in _TOLD if name in body}
    return 200, stage.start(account=account, told=told).describe()
