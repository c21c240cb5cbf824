"""Whether a run has gone beyond what a route allows. Pure."""

from collections import Counter
from collections.abc import Sequence

from app.config.routes import Route, Routes
from app.runs.reconciliation import Reconciliation, ResourceCounts
from app.store.runs import StoredRun
from app.truto.events import RECORD_EVENT

# A share of fewer records says little.
_MIN_RECORDS_FOR_DEAD_SHARE = 100


def has_limits(routes: Routes) -> bool:
    """Whether any route has limits at all."""
    return any(route.stop_at.model_fields_set for route in routes.routes)


def find_exceeded_limit(
    run: StoredRun, reconciliation: Reconciliation, routes: Routes, *, silent_s: float
) -> str | None:
    """Return why a run is to be stopped, for a person to read; None where it is not.

    silent_s: for how long nothing has come of it. A run that waits for a rate limit makes no progress, and is
    right not to.
    """
    by_route: dict[int, list[ResourceCounts]] = {}
    for line in reconciliation.resources:
        route = routes.find_route(
            event=RECORD_EVENT,
            resource=line.resource,
            method=line.method,
            account=run.integrated_account_id,
            has_records=True,
        )
        if route:
            by_route.setdefault(routes.routes.index(route), []).append(line)
    idle_s = 0.0 if run.status == "rate_limited" else silent_s
    reasons = (
        _check_route_limits(routes.routes[place], lines, idle_s) for place, lines in sorted(by_route.items())
    )
    return next(filter(None, reasons), None)


def _check_route_limits(route: Route, lines: Sequence[ResourceCounts], silent_s: float) -> str | None:
    sums = Counter[str]()
    for line in lines:
        sums.update(arrived=line.arrived, dead=line.dead, errors=line.errors)
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
    if limit.idle_minutes is not None and silent_s > limit.idle_minutes * 60:
        return f"no progress for {silent_s / 60:.0f} minutes, more than {limit.idle_minutes:g}"
    return None
