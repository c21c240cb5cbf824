"""The page of failures by cause, and the confirmations of a replay or discard."""

import base64
import json
from collections.abc import Mapping
from dataclasses import astuple, replace
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from app.clock import utc_now
from app.errors import OperationRefused
from app.replay.current_workers import require_current_workers
from app.replay.failure_set import FailureSet
from app.replay.operations import OperationRequest
from app.store.bounded_count import BoundedCount
from app.store.delivery_filter import CAUSE_FIELDS, DeliveryFilter, FailureCause
from app.store.failure_groups import count_all_failures, count_failures
from app.store.failures import FAILED_STATES
from app.store.operations import Operation
from app.store.reasons import RECORD, explain
from app.truto.coerce import as_time
from app.web.dashboard.dashboard import Dashboard
from app.web.dashboard.paging import build_next_url, incomplete_link, read_cursor

_WINDOWS = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
_TEXT_FILTERS = {
    "reason": "reason",
    "resource": "resource",
    "account": "integrated_account_id",
    "run": "sync_job_run_id",
}
_SET_FIELDS = {*_TEXT_FILTERS.values(), "states", "cause", "since", "until"}
_MAX_REASON_CHARS = 500
# Fewer than on other pages: each group is counted up to 10,000.
_GROUPS_PER_PAGE = 25
_GO_BACK = "Go back to the page Failed, and choose again."


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the pages to the blueprint."""

    @pages.get("/failed")
    def show_failed() -> str:
        now = utc_now()
        delivery_filter = _read_filter(request.args, now)
        totals = count_all_failures(dashboard.database, since=delivery_filter.since)
        kind = request.args.get("kind", "") or (
            "records" if totals.records and not totals.deliveries else "deliveries"
        )
        counts = count_failures(
            dashboard.database,
            delivery_filter,
            of_records=kind == "records",
            after=_read_cause_cursor(),
            limit=_GROUPS_PER_PAGE,
        )
        next_url = ""
        if counts.after:
            next_url = build_next_url(*astuple(counts.after))
        return render_template(
            "dashboard/failed.html",
            counts=counts,
            kind=kind,
            next_url=next_url,
            totals=totals,
            windows=[*_WINDOWS, ""],
            window=request.args.get("window", ""),
            filters={name: request.args.get(name, "") for name in ("state", *_TEXT_FILTERS)},
            states=FAILED_STATES,
            explain=explain,
            build_set_url=_build_set_url,
        )

    @pages.get("/failed/replay")
    def confirm_replay() -> str:
        return _render_confirmation(dashboard, "replay")

    @pages.get("/failed/discard")
    def confirm_discard() -> str:
        return _render_confirmation(dashboard, "discard")

    @pages.post("/failed/replay")
    def replay_failed() -> Response | tuple[str, int]:
        return _start(dashboard, "replay")

    @pages.post("/failed/discard")
    def discard_failed() -> Response | tuple[str, int]:
        if not request.form.get("because", "").strip():
            problem = "Enter a reason: it is stored with the discarded failures."
            return _render_confirmation(dashboard, "discard", problem), 400
        return _start(dashboard, "discard")


def _render_confirmation(dashboard: Dashboard, action: str, problem: str = "") -> str:
    now = utc_now()
    failures = _read_set(request.values, now)
    is_counted = "set" in request.values
    number = (failures.count_unchanged if is_counted else failures.count)(dashboard.database)
    has_worker = True
    if action == "replay" and number and not problem:
        try:
            has_worker = bool(
                require_current_workers(dashboard.database, dashboard.config.delivery_config, now=now)
            )
        except OperationRefused as error:
            problem = str(error)
    return render_template(
        "dashboard/failed_confirm.html",
        action=action,
        number=number,
        noun="dead record" if failures.of_records else "failed delivery",
        of_records=failures.of_records,
        conditions=OperationRequest(failures.delivery_filter).describe(),
        encoded_set=_encode_set(failures),
        because=request.values.get("because", ""),
        max_reason_chars=_MAX_REASON_CHARS,
        has_worker=has_worker,
        problem=problem,
    )


def _start(dashboard: Dashboard, action: str) -> Response | tuple[str, int]:
    now = utc_now()
    if "set" not in request.form:
        raise BadRequest(f"The form is incomplete. {_GO_BACK}")
    failures = _read_set(request.form, now)
    # Those that changed since would be in the number of the action, and not in its operation.
    number = failures.count_unchanged(dashboard.database)
    if not number:
        # Somebody else was faster, or the form is sent again.
        return _render_confirmation(dashboard, action), 409
    subject = OperationRequest(failures.delivery_filter).as_subject()
    dashboard.audit(f"failed.{action}", subject, number)
    try:
        operation = _start_operation(dashboard, action, failures, number, now)
    except OperationRefused as error:
        return _render_confirmation(dashboard, action, str(error)), 409
    return redirect(url_for("dashboard.show_operation", operation_id=operation.id), 303)


def _start_operation(
    dashboard: Dashboard, action: str, failures: FailureSet, number: BoundedCount, now: datetime
) -> Operation:
    requester = dashboard.requester
    if action == "replay":
        config = dashboard.config.delivery_config
        return failures.start_replay(dashboard.database, requester=requester, config=config, now=now)
    because = request.form["because"].strip()[:_MAX_REASON_CHARS]
    return failures.start_discard(
        dashboard.database, because=because, number=number, requester=requester, now=now
    )


def _read_set(values: Mapping[str, str], now: datetime) -> FailureSet:
    """Return the set in the parameters of a link or a form; raises BadRequest."""
    if "set" in values:
        return _decode_set(values["set"], now)
    is_of_records = values.get("kind", "") == "records"
    return FailureSet.build(_read_filter(values, now), of_records=is_of_records, counted_at=now)


def _read_filter(values: Mapping[str, str], now: datetime) -> DeliveryFilter:
    state, window = values.get("state", ""), values.get("window", "")
    if (state and state not in FAILED_STATES) or (window and window not in _WINDOWS):
        raise BadRequest(f"The link has an unknown state or time. {_GO_BACK}")
    since = _read_time(values, "since") or (now - _WINDOWS[window] if window else None)
    delivery_filter = DeliveryFilter(states=(state,) if state else (), since=since, cause=_read_cause(values))
    texts: dict[str, Any] = {field: values.get(name, "").strip() for name, field in _TEXT_FILTERS.items()}
    return replace(delivery_filter, **texts)


def _read_cause(values: Mapping[str, str]) -> FailureCause | None:
    if "cause_state" not in values:
        return None
    cause = FailureCause(**{name: values.get(f"cause_{name}", "") for name in CAUSE_FIELDS})
    if cause.state not in (*FAILED_STATES, RECORD):
        raise BadRequest(f"The link is incomplete. {_GO_BACK}")
    return cause


def _read_time(values: Mapping[str, str], name: str) -> datetime | None:
    if not values.get(name):
        return None
    # In UTC: another offset could lead out of the range of times.
    if (time := as_time(values[name])) is None:
        raise BadRequest(f"The form has no valid time. {_GO_BACK}")
    return time


def _read_cause_cursor() -> FailureCause | None:
    cursor = read_cursor()
    if cursor is None:
        return None
    if len(cursor) != len(CAUSE_FIELDS):
        raise incomplete_link()
    return FailureCause(*cursor)


def _build_set_url(action: str, kind: str, cause: FailureCause | None = None) -> str:
    """Return the link to the confirmation for a cause, or for all that the page's filter matches."""
    names = ("window", "state", *_TEXT_FILTERS)
    chosen = {name: request.args[name] for name in names if request.args.get(name)} | {"kind": kind}
    if kind == "records":
        chosen.pop("state", None)
    if cause:
        chosen |= {f"cause_{name}": getattr(cause, name) for name in CAUSE_FIELDS}
    return url_for(f"dashboard.confirm_{action}", **chosen)  # type: ignore[arg-type]  # no option of Flask's


def _encode_set(failures: FailureSet) -> str:
    """Return a set with absolute times as one opaque value, which a form returns unchanged.

    Browsers change line breaks in texts, and pages show direction marks as another character.
    """
    values = {
        "filter": failures.delivery_filter.to_values(),
        "kind": "records" if failures.of_records else "deliveries",
        "counted_at": failures.counted_at.isoformat(),
    }
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


def _decode_set(encoded: str, now: datetime) -> FailureSet:
    """Return the set of a confirmation; raises BadRequest."""
    try:
        values = json.loads(base64.b64decode(encoded, altchars=b"-_", validate=True))
        delivery_filter = DeliveryFilter.from_values(_check_filter(values["filter"]))
        counted_at = datetime.fromisoformat(values["counted_at"])
        kind = values["kind"]
        _require(kind in ("records", "deliveries"))
        times = (delivery_filter.since, delivery_filter.until, counted_at)
        _require(all(time is None or as_time(time.isoformat()) for time in times))
        _require(all(time is None or time.tzinfo is not None for time in times))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadRequest(f"The form is incomplete. {_GO_BACK}") from error
    return FailureSet.build(delivery_filter, of_records=kind == "records", counted_at=min(counted_at, now))


def _check_filter(values: Any) -> dict[str, Any]:
    """Return the values of a filter, of which a confirmation uses only some; raises ValueError."""
    _require(isinstance(values, dict) and values.keys() <= _SET_FIELDS)
    texts = [values[name] for name in values.keys() - {"states", "cause"}]
    if "states" in values:
        _require(isinstance(values["states"], list) and set(values["states"]) <= set(FAILED_STATES))
    if "cause" in values:
        cause = values["cause"]
        _require(isinstance(cause, dict) and cause.keys() == set(CAUSE_FIELDS))
        _require(cause["state"] in (*FAILED_STATES, RECORD))
        texts += cause.values()
    # A lone surrogate has no encoding, and no database accepts it.
    _require(all(isinstance(text, str) and text.encode() for text in texts if text != ""))
    return values  # type: ignore[no-any-return]  # checked above


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("the form was changed")
