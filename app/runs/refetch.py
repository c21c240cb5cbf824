"""Refetching of a run's records: a new run with the same arguments."""

import json
from typing import Any

from app.errors import OperationRefused
from app.store.erased_names import is_pseudonym
from app.store.runs import StoredRun
from app.truto.client import TrutoClient
from app.truto.coerce import as_object
from app.truto.runs import SyncJobRun

# Arguments of the earlier run, by the same names in its events and in the request.
_COPIED_FIELDS = ("args", "error_handling")


def refetch_run(api: TrutoClient, run: StoredRun) -> SyncJobRun:
    """Start a run of the same job, account, webhook and arguments; raises TrutoRefused, TrutoUnavailable.

    The new run ignores the previous one: an incremental run would not fetch the same pages again. Raises
    OperationRefused if the account was erased: its id is no longer known.
    """
    if is_pseudonym(run.integrated_account_id):
        raise OperationRefused(
            "the data of its account was erased. To fetch an account's records, run: rapidbridge runs start"
        )
    before = as_object(json.loads(run.run)) if run.run else {}
    request: dict[str, Any] = {
        "sync_job_id": run.sync_job_id,
        "integrated_account_id": run.integrated_account_id,
        "ignore_previous_run": True,
    }
    if webhook_id := run.webhook_id or before.get("webhook_id"):
        request["webhook_id"] = webhook_id
    return api.start_run(request | {name: before[name] for name in _COPIED_FIELDS if before.get(name)})
