"""Has Truto run a run again, so that what is missing of it comes after all."""

import json
from typing import Any

from app.store.runs import StoredRun
from app.truto.client import TrutoClient
from app.truto.coerce import as_object
from app.truto.runs import SyncJobRun

# What a run was started with, by the names under which it is told.
_COPIED_FIELDS = ("args", "error_handling")


def refetch_run(api: TrutoClient, run: StoredRun) -> SyncJobRun:
    """Start a run of the same job, account, webhook and arguments; raises TrutoRefused, TrutoUnavailable.

    It ignores the previous run: one that continues where that ended would not fetch the same pages again.
    """
    before = as_object(json.loads(run.run)) if run.run else {}
    request: dict[str, Any] = {
        "sync_job_id": run.sync_job_id,
        "integrated_account_id": run.integrated_account_id,
        "ignore_previous_run": True,
    }
    if webhook_id := run.webhook_id or before.get("webhook_id"):
        request["webhook_id"] = webhook_id
    return api.start_run(request | {name: before[name] for name in _COPIED_FIELDS if before.get(name)})
