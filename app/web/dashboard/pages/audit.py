"""The page with the actions of people."""

from flask import Blueprint, render_template

from app.store.audit_log import AuditLog
from app.web.dashboard.dashboard import Dashboard
from app.web.dashboard.paging import PAGE_SIZE, build_next_url, read_time_cursor, split_page


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the page to the blueprint."""
    audit_log = AuditLog(dashboard.database)

    @pages.get("/audit")
    def audit() -> str:
        read = audit_log.list_newest(after=read_time_cursor(), limit=PAGE_SIZE + 1)
        entries, has_more = split_page(read)
        next_url = build_next_url(entries[-1].at, entries[-1].id) if has_more else ""
        return render_template("dashboard/audit.html", entries=entries, next_url=next_url)
