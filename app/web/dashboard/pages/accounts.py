"""The pages of the integrated accounts: the list, and one account."""

from datetime import datetime

from flask import Blueprint, render_template, request
from werkzeug.exceptions import BadRequest, NotFound

from app.checks.service_facts import read_health
from app.clock import utc_now
from app.runs.sync_reasons import explain_run, explain_state
from app.store.accounts import AccountFilter, Accounts, SyncState
from app.web.dashboard.dashboard import Dashboard
from app.web.dashboard.paging import (
    PAGE_SIZE,
    build_next_url,
    incomplete_link,
    parse_position_time,
    read_cursor,
    read_time_cursor,
    split_page,
)

# Of one account; an environment has a few sync jobs.
_MAX_SYNCS = 50
_MAX_ENVIRONMENTS = 100


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the pages to the blueprint."""
    accounts = Accounts(dashboard.database)

    @pages.get("/")
    def list_accounts() -> str:
        now = utc_now()
        account_filter = AccountFilter(
            id_part=request.args.get("q", "").strip(), environment_id=request.args.get("environment", "")
        )
        state = _read_state()
        read = accounts.list_accounts(
            account_filter, state=state, after=_read_position(), now=now, limit=PAGE_SIZE + 1
        )
        page, has_more = split_page(read)
        counts = accounts.count_by_state(account_filter, now=now)
        return render_template(
            "dashboard/accounts.html",
            accounts=[(account, explain_state(account.worst_sync, now=now)) for account in page],
            counts=counts,
            state=state,
            account_filter=account_filter,
            health=read_health(dashboard.database, now=now),
            environments=accounts.list_environments(limit=_MAX_ENVIRONMENTS),
            next_url=build_next_url(*page[-1].position) if has_more else "",
        )

    @pages.get("/accounts/<id:account_id>")
    def show_account(account_id: str) -> str:
        now = utc_now()
        syncs, has_more_syncs = split_page(
            accounts.list_syncs(account_id, now=now, limit=_MAX_SYNCS + 1), _MAX_SYNCS
        )
        read = accounts.list_runs(account_id, after=read_time_cursor(), limit=PAGE_SIZE + 1)
        if not syncs and not read:
            raise NotFound("No run of this account has arrived, or its data was erased.")
        page, has_more = split_page(read)
        next_url = build_next_url(page[-1].first_seen_at, page[-1].sync_job_run_id) if has_more else ""
        return render_template(
            "dashboard/account.html",
            account_id=account_id,
            syncs=[(sync, explain_state(sync, now=now)) for sync in syncs],
            has_more_syncs=has_more_syncs,
            runs=[(run, explain_run(run.status, run.summary)) for run in page],
            next_url=next_url,
        )


def _read_state() -> SyncState | None:
    """Return the state in the URL; raises BadRequest."""
    text = request.args.get("state", "")
    try:
        return SyncState(text) if text else None
    except ValueError as error:
        known = ", ".join(SyncState)
        raise BadRequest(f"The state in the URL is unknown. Use one of: {known}.") from error


def _read_position() -> tuple[SyncState, datetime, str] | None:
    """Return the position in the URL; None on the first page. Raises BadRequest."""
    cursor = read_cursor()
    if cursor is None:
        return None
    try:
        state, time, account_id = cursor
        return SyncState(state), parse_position_time(time), account_id
    except ValueError as error:
        raise incomplete_link() from error
