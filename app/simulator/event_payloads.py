"""Payloads of the events that the simulated API sends on request."""

from collections.abc import Mapping
from random import Random
from typing import Any

from app.simulator.event_writer import make_id
from app.simulator.plan import Plan
from app.simulator.sample_records import make_record
from app.truto.events import RECORD_ERROR_EVENT, RECORD_EVENT, has_records

_TEST_PAYLOAD = {"foo": "bar"}


def build_event_payload(plan: Plan, event: str, run: Mapping[str, Any], rng: Random) -> dict[str, Any]:
    """Return the payload of a simulated event. run: a sync job run as the API describes it."""
    variants = plan.variants
    resource, method = plan.resources[0]
    account = run["integrated_account_id"] or make_id(rng)
    ids = {
        "sync_job_run_id": run["id"],
        "sync_job_id": run["sync_job_id"],
        "integrated_account_id": account,
    }
    record = make_record(resource, account, 0, "simulated")
    if event == RECORD_EVENT:
        payload: dict[str, Any] = {
            "resource": resource,
            **variants.place_records([record]),
            "meta": {"count": 1},
        }
        if plan.v4:
            return payload | {"retryAfter": None}
        return variants.place_method(method, variants.place_ids(ids, payload))
    if event == RECORD_ERROR_EVENT:
        error = {"resource": resource, "method": method, "error": {"status": 404, "message": "not there"}}
        return variants.place_ids(ids, {"errors": [error]} if plan.batched_errors else error)
    if event.startswith("sync_job_run:"):
        return {**run, "status": event.partition(":")[2]}
    if has_records(event):
        return {"resource": resource, "method": method, "records": [record], "integrated_account_id": account}
    return _TEST_PAYLOAD if event == "test" else {"id": make_id(rng), "environment_id": make_id(rng)}
