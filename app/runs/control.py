"""Starts and stops of runs at Truto on an operator's request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import TrutoRefused
from app.truto.client import TrutoClient
from app.truto.runs import SyncJobRun, is_final


@dataclass(frozen=True, slots=True)
class StopResult:
    """The state of a run after a request to stop it.

    is_changed: False if it had ended before. status: None if Truto refused the request.
    """

    sync_job_run_id: str
    is_stopped: bool
    is_changed: bool
    message: str
    status: str | None


def start_run(
    api: TrutoClient,
    *,
    sync_job_id: str,
    integrated_account_id: str,
    webhook_id: str,
    args: Mapping[str, Any],
    error_handling: str | None = None,
    ignore_previous_run: bool = False,
) -> SyncJobRun:
    """Start a run of a sync job; raises TrutoRefused and TrutoUnavailable.

    error_handling: None leaves the job's own.
    """
    request: dict[str, Any] = {
        "sync_job_id": sync_job_id,
        "integrated_account_id": integrated_account_id,
        "webhook_id": webhook_id,
    }
    if args:
        request["args"] = dict(args)
    if error_handling:
        request["error_handling"] = error_handling
    if ignore_previous_run:
        request["ignore_previous_run"] = True
    return api.start_run(request)


def stop_run(api: TrutoClient, run_id: str) -> StopResult:
    """Stop a run unless it has ended; raises TrutoUnavailable."""
    try:
        run = api.get_run(run_id)
        if is_final(run.status or ""):
            message = "it had already ended"
            return StopResult(run_id, is_stopped=True, is_changed=False, message=message, status=run.status)
        status = _stopped_status(api.stop_run(run_id))
        return StopResult(run_id, is_stopped=True, is_changed=True, message="", status=status)
    except TrutoRefused as error:
        return StopResult(run_id, is_stopped=False, is_changed=False, message=str(error), status=None)


def _stopped_status(run: SyncJobRun) -> str:
    # Truto still answers `running` if it stops the run after the current page.
    return run.status if run.status and is_final(run.status) else "stopping"
