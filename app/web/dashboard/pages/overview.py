"""The overview page: the state of the whole service."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, current_app, render_template, request

from app.checks.overview import read_overview
from app.checks.service_facts import MAX_WEBHOOKS
from app.clock import utc_now
from app.store.arrivals import ArrivalPeriod
from app.web.dashboard.charts import HEIGHT, WIDTH, Chart, draw_bars, draw_lines
from app.web.dashboard.dashboard import Dashboard
from app.web.health import Readiness

_OK = "ok"


@dataclass(frozen=True, slots=True)
class _Ready:
    """The answer of /readyz. checks: (name, result); warnings: (name, text)."""

    is_ready: bool
    checks: Sequence[tuple[str, str]]
    warnings: Sequence[tuple[str, str]]


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the page to the blueprint."""
    delivery_config = dashboard.config.delivery_config

    @pages.get("/overview")
    def overview() -> str:
        of_day = request.args.get("period") == "day"
        readiness = _read_readiness(current_app.extensions["readiness"])
        state = read_overview(
            dashboard.database,
            dashboard.queue,
            dashboard.spool,
            delivery_config,
            of_day=of_day,
            now=utc_now(),
        )
        charts = _draw_charts(state.store.arrivals, of_day=of_day) if state.store else ()
        return render_template(
            "dashboard/overview.html",
            readiness=readiness,
            state=state,
            charts=charts,
            of_day=of_day,
            max_webhooks=MAX_WEBHOOKS,
            chart_size=(WIDTH, HEIGHT),
        )


def _read_readiness(readiness: Readiness) -> _Ready:
    http_status, body = readiness.read()
    checks = json.loads(body)
    checks.pop("status")
    warnings = checks.pop("warnings", {})
    return _Ready(http_status == 200, list(checks.items()), list(warnings.items()))


def _draw_charts(arrivals: Sequence[ArrivalPeriod], *, of_day: bool) -> Sequence[Chart]:
    labels = [f"{period.start:%H:%M}" for period in arrivals]
    period = "15 minutes" if of_day else "minute"
    numbers = [float(period.number) for period in arrivals]
    times = {
        "median": [period.p50_ms for period in arrivals],
        "99th percentile": [period.p99_ms for period in arrivals],
    }
    return (
        draw_bars(f"Stored requests per {period}", labels, numbers, unit="requests"),
        draw_lines("Acknowledgement time", labels, times, unit="ms"),
    )
