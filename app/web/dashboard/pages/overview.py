"""The overview page: the state of the whole service."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
from flask import Blueprint, current_app, render_template, request

from app.checks.overview import read_store_overview
from app.checks.service_facts import MAX_WEBHOOKS, read_redis_facts
from app.clock import utc_now
from app.store.arrivals import ArrivalPeriod
from app.web.dashboard.charts import HEIGHT, WIDTH, Chart, draw_bars, draw_lines
from app.web.dashboard.dashboard import Dashboard
from app.web.failover_inbox import as_unavailable
from app.web.health import Readiness

_OK = "ok"
# Shorter than the timeout of a view: the page leaves out what has not answered until then.
_READ_TIMEOUT_S = 4.5


@dataclass(frozen=True, slots=True)
class _Ready:
    """The answer of /readyz. checks: (name, result); warnings: (name, text)."""

    is_ready: bool
    checks: Sequence[tuple[str, str]]
    warnings: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Part:
    """The facts of one server; None with the error if they could not be read."""

    facts: Any
    error: str = ""


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the page to the blueprint."""

    @pages.get("/overview")
    def overview() -> str:
        of_day = request.args.get("period") == "day"
        now, delivery_config = utc_now(), dashboard.config.delivery_config
        # Side by side: a server that hangs must not take the time of the others.
        readings = [
            gevent.spawn(
                _read_part,
                lambda: read_store_overview(dashboard.database, delivery_config, of_day=of_day, now=now),
            ),
            gevent.spawn(_read_part, lambda: read_redis_facts(dashboard.queue, dashboard.spool)),
        ]
        deadline_s = time.monotonic() + _READ_TIMEOUT_S
        try:
            readiness = _read_readiness(current_app.extensions["readiness"])
            gevent.joinall(readings, timeout=max(0, deadline_s - time.monotonic()))
            store, redis = (
                reading.value or _Part(None, f"{server} did not answer within {_READ_TIMEOUT_S:g} s")
                for reading, server in zip(readings, ("The database", "Redis"), strict=True)
            )
        finally:
            gevent.killall(readings, block=False)
        charts = _draw_charts(store.facts.arrivals, of_day=of_day) if store.facts else ()
        return render_template(
            "dashboard/overview.html",
            readiness=readiness,
            store=store.facts,
            store_error=store.error,
            redis=redis.facts,
            redis_error=redis.error,
            charts=charts,
            of_day=of_day,
            max_webhooks=MAX_WEBHOOKS,
            chart_size=(WIDTH, HEIGHT),
        )


def _read_part(read: Callable[[], object]) -> _Part:
    try:
        return _Part(read())
    except Exception as error:  # noqa: BLE001  # the page shows the other parts
        return _Part(None, str(as_unavailable(error)))


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
