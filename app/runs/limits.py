"""Limits of a route at which a run is stopped; pure."""

from collections import Counter
from collections.abc import Sequence

from app.config.routes import Route, RoutedEvent, Routes
from app.plural import format_count
from app.runs.reconciliation import Reconciliation, ResourceCounts
from app.store.runs import StoredRun
from app.truto.events import RECORD_EVENT

# Fewer records make the share of dead ones unreliable.
_MIN_RECORDS_FOR_DEAD_SHARE = 100


def has_limits(routes: Routes) -> bool:
    """Whether any route has limits."""
    return any(route.stop_at.model_fields_set for route in routes.routes)


def find_exceeded_limit(
    run: StoredRun, reconciliation: Reconciliation, routes: Routes, *, silent_s: float
) -> str | None:
    """Return the exceeded limit as a sentence; None if there is none.

    silent_s: the time since the run's last delivery. A rate-limited run is never idle.
    """
    by_route: dict[int, list[ResourceCounts]] = {}
    for counts in reconciliation.resources:
        event = RoutedEvent(
            RECORD_EVENT,
            counts.resource,
            counts.method,
            run.integrated_account_id,
            run.environment_id,
            run.webhook_id,
        )
        route = routes.find_route(event)
        if route:
            by_route.setdefault(routes.routes.index(route), []).append(counts)
    idle_s = 0.0 if run.status == "rate_limited" else silent_s
    reasons = (
        _check_route_limits(routes.routes[index], counts, idle_s)
        for index, counts in sorted(by_route.items())
    )
    return next(filter(None, reasons), None)


def _check_route_limits(route: Route, counts: Sequence[ResourceCounts], idle_s: float) -> str | None:
    sums = Counter[str]()
    for resource in counts:
        sums.update(arrived=resource.arrived, dead=resource.dead, errors=resource.errors)
    limit, of = route.stop_at, f"of {route.resource} {route.method}"
    if limit.record_errors is not None and sums["errors"] > limit.record_errors:
        return f"{sums['errors']:,} record errors {of}, more than {limit.record_errors:,}"
    if limit.records is not None and sums["arrived"] > limit.records:
        return f"{sums['arrived']:,} records {of}, more than {limit.records:,}"
    share = sums["dead"] / max(1, sums["arrived"])
    if (
        limit.dead_share is not None
        and sums["arrived"] >= _MIN_RECORDS_FOR_DEAD_SHARE
        and share > limit.dead_share
    ):
        return f"{share:.0%} of the records {of} are dead, more than {limit.dead_share:.0%}"
    if limit.idle_minutes is not None and idle_s > limit.idle_minutes * 60:
        return (
            f"no progress for {format_count(round(idle_s / 60), 'minute')}, more than {limit.idle_minutes:g}"
        )
    return None
