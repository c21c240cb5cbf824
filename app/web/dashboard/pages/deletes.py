"""The action that approves a delete check."""

from uuid import UUID

from flask import Blueprint, redirect, url_for
from werkzeug.exceptions import Conflict, NotFound
from werkzeug.wrappers import Response as BaseResponse

from app.clock import utc_now
from app.runs.delete_checks import APPROVE_ACTION, find_approval_refusal
from app.store.bounded_count import BoundedCount
from app.store.delete_checks import DeleteChecks
from app.web.dashboard.dashboard import Dashboard


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the action to the blueprint."""
    checks = DeleteChecks(dashboard.database)

    @pages.post("/deletes/<uuid:check_id>/approve")
    def approve_delete(check_id: UUID) -> BaseResponse:
        check = checks.get(check_id)
        if check is None:
            raise NotFound(f"There is no delete check {check_id}.")
        # A form that is sent again changes nothing, and is no second action.
        if not check.approved_at:
            if refusal := find_approval_refusal(check):
                raise Conflict(f"Not approved: {refusal}.")
            dashboard.audit(APPROVE_ACTION, str(check_id), BoundedCount(check.unseen_rows or 0))
            checks.approve(check_id, by=dashboard.actor, now=utc_now())
        return redirect(url_for("dashboard.run", run_id=check.sync_job_run_id), 303)
