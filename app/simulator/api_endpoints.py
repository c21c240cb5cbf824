"""Endpoints of the simulated API: sync job runs, their log, and webhooks."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from app.simulator.event_writer import format_time
from app.simulator.run import SimulatedRun
from app.simulator.session import SimulationSession
from app.simulator.simulated_webhooks import SimulatedWebhook, SimulatedWebhooks, find_unknown_events
from app.truto.coerce import as_object, as_time
from app.truto.webhooks import SIMULATED_EVENTS

ApiResponse = tuple[int, Mapping[str, Any]]

_MAX_PAGE_SIZE = 100
_MAX_LOG_RANGE = timedelta(days=31)
_LOG_RUN_FILTER = "log_type_filter[sync_job_run_id]"
_RUN_FILTERS = ("status", "sync_job_id", "integrated_account_id")
_RUN_OPTIONS = ("args", "ignore_previous_run")


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request. collection: "sync-job-run", "log" or "webhook". id: "" for all. body: {} for none."""

    method: str
    collection: str
    id: str
    query: Mapping[str, str]
    body: Mapping[str, Any]


def read_request(method: str, target: str, body: bytes) -> ApiRequest:
    """Parse a request. target: the path and query of its request line."""
    url = urlsplit(target)
    collection, _, id_ = url.path.removeprefix("/").partition("/")
    query = {name: values[-1] for name, values in parse_qs(url.query).items()}
    try:
        body_object = as_object(json.loads(body))
    except ValueError:
        body_object = {}
    return ApiRequest(method, collection, unquote(id_), query, body_object)


def answer_request(session: SimulationSession, request: ApiRequest) -> ApiResponse:
    """Return the response to a request, as Truto's API would answer."""
    endpoint = _ENDPOINTS.get(request.collection)
    return endpoint(session, request) if endpoint else (404, {"message": "Not found"})


def _answer_run_request(session: SimulationSession, request: ApiRequest) -> ApiResponse:
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
    filters = {name: query[name] for name in _RUN_FILTERS if name in query}
    run_objects = [run.describe() for run in session.runs]
    matching_runs = [run for run in run_objects if all(run[name] == value for name, value in filters.items())]
    return _paginate_items(matching_runs, query, list_name="results")


def _start_run(session: SimulationSession, body: Mapping[str, Any]) -> ApiResponse:
    job, account = body.get("sync_job_id"), body.get("integrated_account_id") or _find_account(body)
    if not (isinstance(job, str) and isinstance(account, str) and account):
        return 422, {"message": "sync_job_id and integrated_account_id are required"}
    if job not in {run.report.sync_job_id for run in session.runs}:
        return 404, {"message": "Sync job not found"}
    options = {name: body[name] for name in _RUN_OPTIONS if name in body}
    return 200, session.start(account=account, start_options=options).describe()


def _find_account(body: Mapping[str, Any]) -> Any:
    """Return the account among the arguments of a V4 job."""
    args = as_object(body.get("args"))
    return next((value for name, value in args.items() if name.endswith("integrated_account_id")), None)


def _answer_log_request(session: SimulationSession, request: ApiRequest) -> ApiResponse:
    query = request.query
    if request.method != "GET" or request.id:
        return 404, {"message": "Not found"}
    if query.get("log_type") != "rapid_bridge":
        return 422, {"message": "log_type: only rapid_bridge is simulated"}
    if (bounds := _read_log_bounds(query)) is None:
        return 422, {"message": "created_at[gt] needs created_at[lt], a month later at most"}
    after, before = bounds
    runs = [run for run in session.runs if query.get(_LOG_RUN_FILTER) in (None, run.report.sync_job_run_id)]
    has_method = session.webhooks.variants.log_method == "present"
    entries = [
        {name: value for name, value in entry.items() if has_method or name != "method"}
        for run in runs
        for created_at, entry in _list_log_entries(run)
        if after < created_at < before
    ]
    return _paginate_items(entries, query, list_name="result")


def _read_log_bounds(query: Mapping[str, str]) -> tuple[datetime, datetime] | None:
    after, before = (as_time(query.get(f"created_at[{name}]")) for name in ("gt", "lt"))
    if after and (before is None or before - after > _MAX_LOG_RANGE):
        return None
    return after or datetime.min.replace(tzinfo=UTC), before or datetime.max.replace(tzinfo=UTC)


def _list_log_entries(run: SimulatedRun) -> Iterator[tuple[datetime, Mapping[str, Any]]]:
    run_object = run.describe()
    ids = {name: run_object[name] for name in ("sync_job_id", "integrated_account_id", "webhook_id")}
    for entry in list(run.log.entries):
        outcome = entry.outcome
        yield (
            entry.created_at,
            {
                # Truto filters by created_at, but returns the time as timestamp.
                "timestamp": format_time(entry.created_at),
                "sync_job_run_id": run_object["id"],
                **ids,
                "sync_job_run_event": entry.event,
                "resource": entry.resource,
                "method": entry.method,
                "status": "completed" if outcome.is_delivered else "failed",
                "num_records": entry.num_records,
                "webhook_successful": outcome.is_delivered,
                "webhook_status": outcome.http_status or None,
                "retry_count": outcome.retries,
                "logs": [],
            },
        )


def _answer_webhook_request(session: SimulationSession, request: ApiRequest) -> ApiResponse:
    webhooks = session.webhooks
    match (request.method, request.id):
        case ("POST", ""):
            return _create_webhook(webhooks, request.body)
        case ("POST", "test") if webhook := webhooks.get(str(request.body.get("id"))):
            return _test_webhook(session, webhook, request.body)
        case ("GET", id_) if webhook := webhooks.get(id_):
            return 200, webhook.describe()
        case ("PATCH", id_) if webhook := webhooks.get(id_):
            return _update_webhook(webhooks, webhook, request.body)
    return 404, {"message": "Webhook not found"}


def _create_webhook(webhooks: SimulatedWebhooks, body: Mapping[str, Any]) -> ApiResponse:
    target_url, types = body.get("target_url"), body.get("event_types", [])
    if not (isinstance(target_url, str) and target_url and isinstance(types, list)):
        return 422, {"message": "target_url is required, event_types a list"}
    if unknown := find_unknown_events(list(map(str, types))):
        return 422, {"message": f"event_types: unknown event {', '.join(unknown)}"}
    webhook = webhooks.create(
        target_url, tuple(map(str, types)), is_active=body.get("is_active", True) is True
    )
    return 200, {**webhook.describe(), "secret": webhook.secret}


def _update_webhook(
    webhooks: SimulatedWebhooks, webhook: SimulatedWebhook, body: Mapping[str, Any]
) -> ApiResponse:
    is_active = body.get("is_active", webhook.is_active)
    if not isinstance(is_active, bool):
        return 422, {"message": "is_active must be true or false"}
    return 200, webhooks.set_active(webhook, is_active=is_active).describe()


def _test_webhook(
    session: SimulationSession, webhook: SimulatedWebhook, body: Mapping[str, Any]
) -> ApiResponse:
    variants = session.webhooks.variants
    # Truto's name of the member is unconfirmed; others are ignored.
    chosen = body.get(variants.test_member.removesuffix("_list"))
    if variants.test_member.endswith("_list"):
        chosen = chosen[0] if isinstance(chosen, list) and chosen else None
    event = chosen if isinstance(chosen, str) else "test"
    if event not in (*SIMULATED_EVENTS, "test"):
        return 422, {"message": "unknown event type"}
    status = session.webhooks.send_test_event(webhook, event, session.runs[0].describe())
    if 200 <= status < 300:
        return 200, {"success": True}
    if variants.test_failure == "false":
        return 200, {"success": False}
    # Truto answers with an error here; its exact form is unconfirmed.
    return int(variants.test_failure), {
        "message": f"The target URL answered {status}" if status else "The target URL did not answer"
    }


def _paginate_items(items: Sequence[Any], query: Mapping[str, str], *, list_name: str) -> ApiResponse:
    limit, start = (query.get(name, default) for name, default in (("limit", "100"), ("next_cursor", "0")))
    if not (limit.isdecimal() and start.isdecimal() and 0 < int(limit) <= _MAX_PAGE_SIZE):
        return 422, {"message": f"limit must be 1 to {_MAX_PAGE_SIZE}, next_cursor one of an earlier answer"}
    end = int(start) + int(limit)
    cursor = str(end) if end < len(items) else None
    return 200, {list_name: items[int(start) : end], "next_cursor": cursor}


_ENDPOINTS: Mapping[str, Callable[[SimulationSession, ApiRequest], ApiResponse]] = {
    "sync-job-run": _answer_run_request,
    "log": _answer_log_request,
    "webhook": _answer_webhook_request,
}
