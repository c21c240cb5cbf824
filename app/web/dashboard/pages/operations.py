"""The pages with replays and discards in the background."""

from datetime import datetime
from uuid import UUID

from flask import Blueprint, redirect, render_template, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from app.replay.operations import OperationRequest, cancel_operation
from app.store.operations import OperationKind, Operations
from app.store.replays import Replays
from app.web.dashboard.dashboard import Dashboard
from app.web.dashboard.paging import PAGE_SIZE, build_next_url, incomplete_link, read_time_cursor, split_page

_UNKNOWN = "There is no such operation. It may belong to another receiver."


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the pages to the blueprint."""
    operations, replays = Operations(dashboard.database), Replays(dashboard.database)

    @pages.get("/operations")
    def list_operations() -> str:
        read = operations.list_newest(after=_read_cursor(), limit=PAGE_SIZE + 1)
        page, has_more = split_page(read)
        next_url = build_next_url(page[-1].requested_at, page[-1].id) if has_more else ""
        return render_template("dashboard/operations.html", operations=page, next_url=next_url)

    @pages.get("/operations/<uuid:operation_id>")
    def show_operation(operation_id: UUID) -> str:
        operation = operations.get(operation_id)
        if operation is None:
            raise NotFound(_UNKNOWN)
        is_replay = operation.kind == OperationKind.REPLAY
        return render_template(
            "dashboard/operation.html",
            operation=operation,
            conditions=OperationRequest.from_json(operation.request).describe(),
            states=replays.count_states(operation.id) if is_replay else {},
        )

    @pages.post("/operations/<uuid:operation_id>/cancel")
    def cancel(operation_id: UUID) -> Response:
        operation = operations.get(operation_id)
        if operation is None:
            raise NotFound(_UNKNOWN)
        if not operation.is_finished:
            dashboard.audit("operation.cancel", str(operation_id))
            cancel_operation(dashboard.database, operation_id)
        return redirect(url_for("dashboard.show_operation", operation_id=operation_id), 303)


def _read_cursor() -> tuple[datetime, UUID] | None:
    cursor = read_time_cursor()
    if cursor is None:
        return None
    try:
        return cursor[0], UUID(cursor[1])
    except ValueError as error:
        raise incomplete_link() from error
