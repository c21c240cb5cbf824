"""The pages of deliveries: the list, one delivery, its replay and its discard."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.exceptions import BadRequest, Conflict, NotFound
from werkzeug.wrappers import Response as BaseResponse

from app.clock import utc_now
from app.database.engine import Database
from app.errors import OperationRefused
from app.replay.delivery_actions import discard_delivery, may_discard, may_replay, replay_delivery
from app.store.bounded_count import BoundedCount
from app.store.delivery_detail import DeliveryDetail, read_delivery_detail
from app.store.delivery_filter import DeliveryFilter
from app.store.delivery_search import COUNTED_ROWS, DeliveryPage, count_matches, search_deliveries
from app.store.delivery_timeline import build_timeline
from app.store.failures import FAILED_STATES
from app.store.id_prefixes import MIN_PREFIX_DIGITS, UUID_DIGITS, find_delivery_ids, read_id_digits
from app.store.models import DeliveryState
from app.store.operations import Operation, Operations
from app.store.reasons import RECORD, explain, explain_reason
from app.times import parse_time
from app.web.dashboard.dashboard import Dashboard
from app.web.dashboard.paging import PAGE_SIZE, build_next_url, incomplete_link, read_time_cursor, split_page

# A pseudo-state: every failed delivery.
_FAILED = "failed"
_STATES = (*map(str, DeliveryState), _FAILED)
# The parameters of the list, and the fields of the filter.
_FIELDS = {
    "account": "integrated_account_id",
    "run": "sync_job_run_id",
    "job": "sync_job_id",
    "environment": "environment_id",
    "webhook": "webhook_id",
    "event": "event",
    "resource": "resource",
    "method": "method",
    "reason": "reason",
    "sink": "sink",
}
# Shown only if one of them is set.
_MORE_FIELDS = ("event", "method", "sink", "job", "environment", "webhook")
_NO_MATCHES = (DeliveryPage(()), BoundedCount(0))
_MAX_REASON_CHARS = 500


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the pages to the blueprint."""
    database = dashboard.database

    @pages.get("/deliveries")
    def deliveries() -> str | BaseResponse:
        after = read_time_cursor()
        ids, has_more_ids = _read_ids(database)
        if len(ids) == 1:
            return redirect(url_for("dashboard.delivery", delivery_id=ids[0]), 303)
        delivery_filter = _read_filter(ids)
        has_match = bool(ids or not request.args.get("id", "").strip())
        page, count = _search(database, delivery_filter, after) if has_match else _NO_MATCHES
        return render_template(
            "dashboard/deliveries.html",
            page=page,
            count=count,
            counted_rows=COUNTED_ROWS,
            has_more_ids=has_more_ids,
            next_url=build_next_url(*page.next) if page.next else "",
            states=_STATES,
            has_more_filters=any(request.args.get(name) for name in _MORE_FIELDS),
            explain_reason=explain_reason,
        )

    @pages.get("/deliveries/<delivery_id>")
    def delivery(delivery_id: str) -> str | BaseResponse:
        if len(read_id_digits(delivery_id)) != UUID_DIGITS:
            return redirect(url_for("dashboard.deliveries", id=delivery_id), 303)
        detail = find_delivery(database, delivery_id)
        operation = _find_operation(database, request.args.get("operation", ""))
        replay_id = detail.delivery.replay_id
        return render_template(
            "dashboard/delivery.html",
            detail=detail,
            delivery=detail.delivery,
            explanation=explain(detail.delivery.state, detail.delivery.reason),
            explain_record=lambda reason: explain(RECORD, reason),
            timeline=build_timeline(detail, now=utc_now()),
            operation=operation if operation and not operation.is_finished else None,
            replay=Operations(database).get(replay_id) if replay_id else None,
            may_replay=may_replay(detail.delivery),
            may_discard=may_discard(detail.delivery),
            shown_version=_get_version(detail),
        )

    @pages.post("/deliveries/<delivery_id>/replay")
    def replay(delivery_id: str) -> BaseResponse:
        detail = _find_unchanged(database, delivery_id)
        if not may_replay(detail.delivery):
            return _redirect_to(detail)
        dashboard.audit("delivery.replay", str(detail.delivery.id))
        try:
            operation = replay_delivery(
                database,
                detail.delivery,
                requester=dashboard.requester,
                config=dashboard.config.delivery_config,
            )
        except OperationRefused as error:
            raise Conflict(str(error)) from error
        return _redirect_to(detail, operation)

    @pages.post("/deliveries/<delivery_id>/discard")
    def discard(delivery_id: str) -> BaseResponse:
        detail = _find_unchanged(database, delivery_id)
        because = request.form.get("because", "").strip()[:_MAX_REASON_CHARS]
        if not because:
            raise BadRequest("Enter a reason for the discard. It is shown with the delivery.")
        if not may_discard(detail.delivery):
            return _redirect_to(detail)
        dashboard.audit("delivery.discard", str(detail.delivery.id))
        try:
            operation = discard_delivery(
                database, detail.delivery, because=because, requester=dashboard.requester
            )
        except OperationRefused as error:
            raise Conflict(str(error)) from error
        return _redirect_to(detail, operation)


def find_delivery(database: Database, delivery_id: str) -> DeliveryDetail:
    """Return the delivery with a whole id; raises NotFound and StoreUnavailable."""
    digits = read_id_digits(delivery_id)
    detail = read_delivery_detail(database, UUID(digits)) if len(digits) == UUID_DIGITS else None
    if detail is None:
        raise NotFound(f"There is no delivery {delivery_id} here.")
    return detail


def _search(
    database: Database, delivery_filter: DeliveryFilter, after: tuple[datetime, str] | None
) -> tuple[DeliveryPage, BoundedCount | None]:
    """Return a page, and on the first one the number of matches."""
    try:
        position = (after[0], UUID(after[1])) if after else None
    except ValueError as error:
        raise incomplete_link() from error
    page = search_deliveries(database, delivery_filter, after=position, page_size=PAGE_SIZE)
    return page, None if after else count_matches(database, delivery_filter)


def _read_ids(database: Database) -> tuple[Sequence[UUID], bool]:
    """Return the newest deliveries with the id, or its start, in the URL; and whether more begin so.

    Raises BadRequest.
    """
    typed = request.args.get("id", "").strip()
    if not typed:
        return (), False
    digits = read_id_digits(typed)
    if len(digits) < MIN_PREFIX_DIGITS:
        raise BadRequest(f"Id: enter an id, or at least its first {MIN_PREFIX_DIGITS} characters.")
    return split_page(find_delivery_ids(database, digits, limit=PAGE_SIZE + 1, newest_first=True))


def _read_filter(ids: Sequence[UUID]) -> DeliveryFilter:
    """Return the filter in the URL of this request; raises BadRequest."""
    values = {name: value.strip() for name, value in request.args.items()}
    state = values.get("state", "")
    if state and state not in _STATES:
        raise BadRequest(f"State: there is no state {state[:40]}; choose one of {', '.join(_STATES)}.")
    texts: dict[str, Any] = {field: values.get(name, "") for name, field in _FIELDS.items()}
    return DeliveryFilter(
        ids=ids,
        states=FAILED_STATES if state == _FAILED else [state] if state else [],
        since=_read_time("since", values.get("since", "")),
        until=_read_time("until", values.get("until", "")),
        **texts,
    )


def _read_time(name: str, text: str) -> datetime | None:
    try:
        return parse_time(text, now=utc_now()) if text else None
    except ValueError as error:
        raise BadRequest(f"{name.capitalize()}: {error}.") from error


def _find_operation(database: Database, text: str) -> Operation | None:
    try:
        return Operations(database).get(UUID(text)) if text else None
    except ValueError:
        return None


def _find_unchanged(database: Database, delivery_id: str) -> DeliveryDetail:
    """Return the delivery of a form; raises Conflict if it is not the version that the page showed."""
    detail = find_delivery(database, delivery_id)
    is_waiting = detail.delivery.state == DeliveryState.PENDING
    # A second click on the same button: its replay has begun.
    if request.form.get("version", "") != _get_version(detail) and not is_waiting:
        raise Conflict(
            "The delivery has changed since the page was loaded, and nothing was done. "
            f"Look at it again: /deliveries/{detail.delivery.id}"
        )
    return detail


def _get_version(detail: DeliveryDetail) -> str:
    """Return a text that changes whenever a delivery reaches a state."""
    settled_at = detail.delivery.settled_at
    return f"{detail.delivery.state} {settled_at.isoformat() if settled_at else ''}"


def _redirect_to(detail: DeliveryDetail, operation: Operation | None = None) -> BaseResponse:
    shown = operation.id if operation else None
    return redirect(url_for("dashboard.delivery", delivery_id=detail.delivery.id, operation=shown), 303)
