"""Decision of a reconciled run on the rows that it did not see; pure."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from app.config.routes import Route, RoutedEvent, Routes
from app.config.sinks import SqlSinkConfig
from app.plural import format_count
from app.runs.notifications import describe_run
from app.runs.reconciliation import Reconciliation
from app.store.delete_checks import DeleteCheck, DeleteCheckState, HoldReason, make_check_id
from app.store.notifications import Notification
from app.store.runs import StoredRun
from app.truto.coerce import as_object, as_text
from app.truto.events import RECORD_EVENT
from app.truto.runs import read_resource_stats

# Of the audit log.
APPROVE_ACTION = "deletes.approve"
# A share of a small table is a handful of rows.
_MIN_ROWS = 10
_COMPLETED = "completed"
# Of a query that fetches the records since the previous run: `{{previous_run_date}}` (unconfirmed).
_PREVIOUS_RUN = "previous_run"

_EXPLANATIONS: Mapping[str, str] = {
    HoldReason.UNIDENTIFIED: "the run names no sync job or no integrated account",
    HoldReason.NOT_COMPLETED: "the run did not complete",
    HoldReason.INCOMPLETE: "the verdict of the run is not complete",
    HoldReason.INCREMENTAL: "the run fetched only what changed since the previous run",
    HoldReason.RECORD_ERRORS: "Truto could not fetch all records of the resource",
    HoldReason.ERRORS_NOT_SENT: "the run's events_to_send leaves out record_error",
    HoldReason.DEAD_RECORDS: "records of the resource are dead",
    HoldReason.SURPLUS: "more records arrived than Truto fetched, so others may be missing",
    HoldReason.NOT_WRITTEN: "records of the resource went to other sinks",
    HoldReason.OVER_SHARE: "more rows than max_deleted_share are gone",
    HoldReason.NOT_TRACKED: "the routes file no longer tracks deletes of the resource in this sink",
    HoldReason.NEWER_RUN: "a newer run of the job and account decides",
    HoldReason.PENDING: "deliveries of the resource are pending",
    HoldReason.SINK_PAUSED: "the sink is paused",
    HoldReason.SINK_UNAVAILABLE: "the sink fails",
}

_NEXT_STEPS: Mapping[str, str] = {
    HoldReason.INCOMPLETE: "for the gaps, run: rapidbridge runs show {run}",
    HoldReason.INCREMENTAL: "remove track_deletes from its route, or start a run with ignore_previous_run",
    HoldReason.ERRORS_NOT_SENT: "add record_error to the events_to_send of the sync job",
    HoldReason.DEAD_RECORDS: "replay them; to list them, run: rapidbridge dead list",
    HoldReason.OVER_SHARE: "to mark the rows, run: rapidbridge deletes approve {id}",
}
_NEXT_RUN = "the next complete run decides again"


def build_delete_checks(
    run: StoredRun, reconciliation: Reconciliation, routes: Routes, *, began_at: datetime, now: datetime
) -> list[DeleteCheck]:
    """Return the checks of a run, one for each resource and SQL sink whose route tracks deletes.

    began_at: when the first delivery of the run was received.
    """
    if reconciliation.verdict == "refused":
        return []
    checks: dict[Any, DeleteCheck] = {}
    for resource, method, route in _list_tracked(run, reconciliation, routes):
        run_reason = _find_hold_reason(run, reconciliation, resource)
        for sink in list_tracking_sinks(route, routes):
            reason = run_reason or _find_sink_reason(reconciliation, resource, method, sink)
            check_id = make_check_id(run.sync_job_run_id, resource, route.table, sink)
            checks[check_id] = DeleteCheck(
                check_id,
                run.sync_job_run_id,
                run.sync_job_id,
                run.integrated_account_id,
                resource,
                method,
                sink,
                route.table,
                began_at,
                created_at=now,
                state=DeleteCheckState.HELD_BACK if reason else DeleteCheckState.DUE,
                reason=reason,
                due_at=now,
            )
    return list(checks.values())


def find_tracking_route(run: StoredRun, routes: Routes, resource: str, method: str) -> Route | None:
    """Return the route of a resource of a run if it tracks deletes."""
    event = RoutedEvent(
        RECORD_EVENT, resource, method, run.integrated_account_id, run.environment_id, run.webhook_id
    )
    route = routes.find_route(event)
    return route if route and route.track_deletes else None


def list_tracking_sinks(route: Route, routes: Routes) -> list[str]:
    """Return the SQL sinks of a route."""
    return [name for name in route.sinks if isinstance(routes.sinks.get(name), SqlSinkConfig)]


def exceeds_share(*, live_rows: int, unseen_rows: int, max_share: float) -> bool:
    """Whether more rows are unseen than one run may mark without approval.

    Up to 10 rows never exceed a share above 0, unless they are all rows.
    """
    is_small = max_share > 0 and unseen_rows <= _MIN_ROWS and unseen_rows < live_rows
    return not is_small and unseen_rows > max_share * live_rows


def is_approvable(check: DeleteCheck) -> bool:
    """Whether a person may approve a check: only the share holds it back."""
    return check.state == DeleteCheckState.HELD_BACK and check.reason == HoldReason.OVER_SHARE


def find_approval_refusal(check: DeleteCheck) -> str:
    """Return the reason why a check cannot be approved; "" for none."""
    if check.state != DeleteCheckState.HELD_BACK:
        return f"the check is not held back, but {check.state}: {explain_check(check)}"
    return "" if is_approvable(check) else f"{explain_check(check)}; {advise_on_check(check)}"


def advise_on_check(check: DeleteCheck) -> str:
    """Return the next step for a check that is held back, such as "to mark the rows, run: …"."""
    step = _NEXT_STEPS.get(check.reason, _NEXT_RUN)
    # Quoted, because the id is part of a command that is pasted into a shell.
    return step.format(id=check.id, run=shlex.quote(check.sync_job_run_id))


def explain_check(check: DeleteCheck) -> str:
    """Return the result of a check as text, such as "12 rows marked as deleted"."""
    if check.state == DeleteCheckState.DONE:
        return f"{format_count(check.marked_rows or 0, 'row')} marked as deleted"
    if check.state == DeleteCheckState.DUE and not check.reason:
        return "a worker marks the rows"
    text = _EXPLANATIONS.get(check.reason, check.reason)
    if check.message:
        text += f": {check.message}"
    if check.reason == HoldReason.OVER_SHARE:
        text += f" ({check.unseen_rows or 0:,} of {format_count(check.live_rows or 0, 'row')})"
    return text


def build_held_notification(
    run: StoredRun, checks: Sequence[DeleteCheck], *, now: datetime
) -> Notification | None:
    """Return the notification of the checks that are held back; None without any.

    An incremental run is no fault: of its job, only the first one is worth a notification.
    """
    held = [check for check in checks if check.state == DeleteCheckState.HELD_BACK]
    if not held:
        return None
    subject = run.sync_job_run_id
    cause = " ".join(sorted(f"{check.id.hex} {check.reason}" for check in held))
    if all(check.reason == HoldReason.INCREMENTAL for check in held):
        subject, cause = run.sync_job_id, str(HoldReason.INCREMENTAL)
    payload = {
        **describe_run(run),
        "held": [
            {
                "id": str(check.id),
                "resource": check.resource,
                "sink": check.sink,
                "reason": str(check.reason),
                "rows": check.unseen_rows,
                "live_rows": check.live_rows,
            }
            for check in held
        ],
    }
    return Notification("deletes.held", subject, cause, now, payload)


def _list_tracked(
    run: StoredRun, reconciliation: Reconciliation, routes: Routes
) -> Iterator[tuple[str, str, Route]]:
    pairs = {(counts.resource, counts.method) for counts in reconciliation.resources}
    # A reconciliation leaves out resources without records, such as an emptied one.
    pairs |= set(read_resource_stats(_read_run(run).get("resource_stats")))
    for resource, method in sorted(pairs):
        if resource and (route := find_tracking_route(run, routes, resource, method)):
            yield resource, method, route


def _find_hold_reason(run: StoredRun, reconciliation: Reconciliation, resource: str) -> str:
    """Return the reason why no row is marked; "" for none."""
    details = _read_run(run)
    errors = {counts.resource for counts in reconciliation.resources if counts.errors}
    # The records of another resource may be the arguments of the queries for this one.
    is_affected = errors & {resource, ""} or (errors and _may_depend_on_others(details, resource))
    own = [counts for counts in reconciliation.resources if counts.resource == resource]
    conditions = {
        HoldReason.UNIDENTIFIED: not (run.sync_job_id and run.integrated_account_id),
        HoldReason.NOT_COMPLETED: run.status != _COMPLETED,
        HoldReason.INCOMPLETE: reconciliation.verdict != "complete",
        HoldReason.INCREMENTAL: _is_incremental(details, resource),
        HoldReason.RECORD_ERRORS: bool(is_affected),
        HoldReason.ERRORS_NOT_SENT: "record_errors" in reconciliation.unsent_events,
        HoldReason.DEAD_RECORDS: any(counts.dead for counts in own),
        # A page that arrived twice, by two webhooks, hides one that did not.
        HoldReason.SURPLUS: any(counts.surplus for counts in own),
    }
    return next((reason for reason, applies in conditions.items() if applies), "")


def _find_sink_reason(reconciliation: Reconciliation, resource: str, method: str, sink: str) -> str:
    """Return the reason why no row is marked in one sink; "" for none."""
    for counts in reconciliation.resources:
        if (counts.resource, counts.method) == (resource, method):
            own = sum(s.written + s.dead + s.filtered for s in counts.sinks if s.sink == sink)
            if own < counts.arrived:
                return HoldReason.NOT_WRITTEN
    return ""


def _is_incremental(run: Mapping[str, Any], resource: str) -> bool:
    """Whether the definition of a run fetches a resource since the previous run, as far as it is known."""
    if run.get("ignore_previous_run") is True:
        return False
    definitions = _list_definitions(run)
    own = [entry for entry in definitions if as_text(entry.get("resource")) == resource]
    return _PREVIOUS_RUN in json.dumps([own or definitions, run.get("args")])


def _may_depend_on_others(run: Mapping[str, Any], resource: str) -> bool:
    """Whether a run fetches a resource with the records of others; False if nothing is known about it."""
    definitions = _list_definitions(run)
    own = [entry for entry in definitions if as_text(entry.get("resource")) == resource]
    # The nodes of later versions have names of their own.
    return any(entry.get("depends_on") or entry.get("loop_on") for entry in own or definitions)


def _list_definitions(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = [run.get("resources"), as_object(run.get("sync_job")).get("resources")]
    return [
        entry for listed in entries if isinstance(listed, list) for entry in listed if isinstance(entry, dict)
    ]


def _read_run(run: StoredRun) -> Mapping[str, Any]:
    return as_object(json.loads(run.run)) if run.run else {}
