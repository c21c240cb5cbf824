"""The page of the sinks, and the actions to pause and resume them."""

from dataclasses import dataclass

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

from app.clock import utc_now
from app.config.sinks import SinkConfig, SqlSinkConfig
from app.database.engine import redact_url
from app.runs.delete_checks import advise_on_check, explain_check, is_approvable
from app.store.column_misfits import ColumnMisfits
from app.store.delete_checks import DeleteChecks
from app.store.sink_states import SinkStates
from app.store.sink_status import SinkStatus, list_sink_statuses
from app.web.dashboard.dashboard import Dashboard
from app.web.dashboard.paging import split_page

_MAX_REASON_CHARS = 200
_MAX_MISFITS = 200
_MAX_DELETES = 50


@dataclass(frozen=True, slots=True)
class _SinkRow:
    """A sink with its place."""

    status: SinkStatus
    type: str
    url: str
    lag_s: float | None


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the page and its actions to the blueprint."""
    states = SinkStates(dashboard.database)

    @pages.get("/sinks")
    def sinks_page() -> str:
        sinks = dashboard.config.routes.sinks
        statuses = {status.sink: status for status in list_sink_statuses(dashboard.database, sinks)}
        rows = [_build_row(statuses[name], sinks[name]) for name in sorted(sinks)]
        read = ColumnMisfits(dashboard.database).list_newest(limit=_MAX_MISFITS + 1)
        newest, has_more_misfits = split_page(read, _MAX_MISFITS)
        misfits = sorted(
            (misfit for misfit in newest if misfit.sink in sinks),
            key=lambda misfit: (misfit.sink, misfit.resource, misfit.column),
        )
        read_deletes = DeleteChecks(dashboard.database).list_newest(limit=_MAX_DELETES + 1, is_held=True)
        deletes, has_more_deletes = split_page(read_deletes, _MAX_DELETES)
        return render_template(
            "dashboard/sinks.html",
            rows=rows,
            deletes=deletes,
            has_more_deletes=has_more_deletes,
            advise_on_check=advise_on_check,
            explain_check=explain_check,
            is_approvable=is_approvable,
            misfits=misfits,
            has_more_misfits=has_more_misfits,
            max_reason=_MAX_REASON_CHARS,
        )

    @pages.post("/sinks/<id:name>/pause")
    def pause_sink(name: str) -> BaseResponse:
        if name not in dashboard.config.routes.sinks:
            raise NotFound(f"The routes file names no sink {name}.")
        reason = request.form.get("reason", "").strip()[:_MAX_REASON_CHARS]
        if not states.is_paused(name):
            dashboard.audit("sink.pause", name)
        states.pause(name, by=dashboard.actor, reason=reason, now=utc_now())
        return redirect(url_for("dashboard.sinks_page"), 303)

    @pages.post("/sinks/<id:name>/resume")
    def resume_sink(name: str) -> BaseResponse:
        if name not in dashboard.config.routes.sinks:
            raise NotFound(f"The routes file names no sink {name}.")
        if states.is_paused(name):
            dashboard.audit("sink.resume", name)
        states.resume(name)
        return redirect(url_for("dashboard.sinks_page"), 303)


def describe_place(config: SinkConfig) -> str:
    """Return the URL or function of a sink, without secrets."""
    return redact_url(config.url) if isinstance(config, SqlSinkConfig) else config.place


def _build_row(status: SinkStatus, config: SinkConfig) -> _SinkRow:
    return _SinkRow(status, config.type, describe_place(config), status.lag_s(utc_now()))
