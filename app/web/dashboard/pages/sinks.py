"""The page of the sinks, and the actions to pause and resume them."""

from dataclasses import dataclass

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

from app.clock import utc_now
from app.config.sinks import SinkConfig, SqlSinkConfig
from app.database.engine import redact_url
from app.plural import format_count
from app.store.column_misfits import ColumnMisfits
from app.store.sink_states import SinkStates
from app.store.sink_status import MAX_HELD, SinkStatus, list_sink_statuses
from app.web.dashboard.dashboard import Dashboard

_MAX_REASON_CHARS = 200


@dataclass(frozen=True, slots=True)
class _SinkRow:
    """A sink with its place. held: with its noun."""

    status: SinkStatus
    type: str
    url: str
    held: str
    lag_s: float | None


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the page and its actions to the blueprint."""
    sinks = dashboard.config.routes.sinks
    states = SinkStates(dashboard.database)

    @pages.get("/sinks")
    def sinks_page() -> str:
        statuses = {status.sink: status for status in list_sink_statuses(dashboard.database, sinks)}
        rows = [_build_row(statuses[name], sinks[name]) for name in sorted(sinks)]
        misfits = [misfit for misfit in ColumnMisfits(dashboard.database).list() if misfit.sink in sinks]
        return render_template(
            "dashboard/sinks.html", rows=rows, misfits=misfits, max_reason=_MAX_REASON_CHARS
        )

    @pages.post("/sinks/<id:name>/pause")
    def pause_sink(name: str) -> BaseResponse:
        if name not in sinks:
            raise NotFound(f"The routes file names no sink {name}.")
        reason = request.form.get("reason", "").strip()[:_MAX_REASON_CHARS]
        dashboard.audit("sink.pause", name)
        states.pause(name, by=dashboard.actor, reason=reason, now=utc_now())
        return redirect(url_for("dashboard.sinks_page"), 303)

    @pages.post("/sinks/<id:name>/resume")
    def resume_sink(name: str) -> BaseResponse:
        if name not in sinks:
            raise NotFound(f"The routes file names no sink {name}.")
        dashboard.audit("sink.resume", name)
        states.resume(name)
        return redirect(url_for("dashboard.sinks_page"), 303)


def describe_place(config: SinkConfig) -> str:
    """Return the URL or function of a sink, without secrets."""
    return redact_url(config.url) if isinstance(config, SqlSinkConfig) else config.place


def _build_row(status: SinkStatus, config: SinkConfig) -> _SinkRow:
    more = "+" if status.held >= MAX_HELD else ""
    held = format_count(status.held, "delivery").replace(" ", f"{more} ", 1)
    return _SinkRow(status, config.type, describe_place(config), held, status.lag_s(utc_now()))
